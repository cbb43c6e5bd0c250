"""Requests over one kept connection, with Python's own HTTP."""

from __future__ import annotations

import http.client
import json
import selectors
import ssl
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from simile.client.errors import ClientError, Unreachable, make_problem

ImageSource = Path | str | bytes  # a file's path, or the bytes of one
FormFields = Mapping[str, Any]
RequestBody = tuple[bytes, str]  # and its media type

_CONNECTION_ERRORS = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
_SAFE = ("GET", "HEAD")


@dataclass(frozen=True)
class HttpResponse:
    """What the service answered; `lines` of one that goes on and on, else `body`."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """A service's address, a key, and a connection for each thread. Close it, or use it in `with`."""

    def __init__(self, url: str, key: str | None, timeout: float, context: ssl.SSLContext | None) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ClientError(f"{url!r} is no address of a service. Write http://127.0.0.1:8000.")
        self._address, self._timeout, self._context = address, timeout, context
        self._base_path = address.path.rstrip("/")
        self._headers = {"Accept": "application/json, image/*"} | ({} if key is None else {"X-API-Key": key})
        self._thread_local = local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes this thread's connection; the next request would open another."""
        connection = self._thread_local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    def request(self, method: str, target: str, body: RequestBody | None = None) -> HttpResponse:
        """One request. Raises Unreachable, and the Problem that the service answers with."""
        try:
            answer = self._send_request(method, target, body, self._thread_local.__dict__.get("connection"))
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(f"{self._address.geturl()} can't be reached: {error or type(error).__name__}.") from error
        if answer.status >= 400:
            raise make_problem(answer.status, answer.body, answer.headers.get("retry-after"))
        return answer

    def stream_lines(self, target: str) -> Iterator[str]:
        """The lines of an answer that goes on and on, over a connection of its own. Raises as `request`."""
        connection = self._connect()
        try:
            connection.request(
                "GET", self._base_path + target, headers={**self._headers, "Accept": "text/event-stream"}
            )
            response = connection.getresponse()
            if response.status >= 400:
                raise make_problem(response.status, response.read(), response.headers.get("retry-after"))
            for line in response:
                yield line.decode("utf-8").rstrip("\r\n")
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._address.geturl()} broke off: {error or type(error).__name__}.") from error
        finally:
            connection.close()

    def _send_request(
        self, method: str, target: str, body: RequestBody | None, open_connection: http.client.HTTPConnection | None
    ) -> HttpResponse:
        if open_connection is not None and _is_closed(open_connection):
            self.close()
            open_connection = None
        connection = open_connection or self._connect()
        headers = self._headers if body is None else {**self._headers, "Content-Type": body[1]}
        is_sent = False
        try:
            connection.request(method, self._base_path + target, None if body is None else body[0], headers)
            is_sent = True
            response = connection.getresponse()
        except _CONNECTION_ERRORS:
            # The service may have closed a kept connection at this moment. A request that was sent may have been done,
            # so it is repeated only if it changes nothing: a second DELETE would give 404, a second POST of a job 409.
            if open_connection is None or (is_sent and method not in _SAFE):
                raise
            self.close()
            return self._send_request(method, target, body, None)
        found = {name.lower(): value for name, value in response.getheaders()}
        answer = HttpResponse(response.status, found, response.read())
        if response.will_close:
            self.close()
        else:
            self._thread_local.connection = connection
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self._address.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)


def _is_closed(connection: http.client.HTTPConnection) -> bool:
    """Return whether the service has closed this idle connection: an end or unasked data waits to be read."""
    if connection.sock is None:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(connection.sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def json_body(value: Any) -> RequestBody:
    """A value as JSON."""
    return json.dumps(value, allow_nan=False).encode(), "application/json"


def form_body(fields: FormFields, files: Sequence[tuple[str, ImageSource]]) -> RequestBody:
    """A form (RFC 7578) of fields and (field, picture). Raises ClientError where a file can't be read."""
    boundary = uuid.uuid4().hex
    parts = [_make_form_part(boundary, name, str(value).encode()) for name, value in _flatten_fields(fields)]
    for name, picture in files:
        data, file_name = _read_image_source(picture)
        parts.append(_make_form_part(boundary, name, data, file_name))
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def make_query_string(fields: FormFields) -> str:
    """`?a=1&b=2` of what is given."""
    given = list(_flatten_fields(fields))
    return f"?{urlencode(given)}" if given else ""


def _flatten_fields(fields: FormFields) -> Iterator[tuple[str, object]]:
    """Each field once, a list once for each of its values; without those that are None."""
    for name, value in fields.items():
        values = value if isinstance(value, list | tuple) else [value]
        for one in values:
            if one is not None:
                yield name, str(one).lower() if isinstance(one, bool) else one


def _read_image_source(image: ImageSource) -> tuple[bytes, str]:
    if isinstance(image, bytes):
        return image, "picture"
    path = Path(image)
    try:
        return path.read_bytes(), path.name
    except OSError as error:
        raise ClientError(f"{path} can't be read: {error.strerror}.") from error


def _make_form_part(boundary: str, name: str, data: bytes, file_name: str | None = None) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
    if file_name is not None:
        plain = file_name.encode("utf-8", "replace").decode().replace("\\", "_").replace('"', "%22")
        plain = plain.replace("\r", "_").replace("\n", "_")
        head += f'; filename="{plain}"\r\nContent-Type: application/octet-stream'
    return f"{head}\r\n\r\n".encode() + data + b"\r\n"
