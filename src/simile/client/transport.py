"""Send requests over a kept connection with Python's own HTTP client."""

from __future__ import annotations

import http.client
import json
import selectors
import socket
import ssl
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from simile.client.errors import ClientError, Unreachable, make_problem

ImageSource = Path | str | bytes  # the path of a file, or its bytes
FormFields = Mapping[str, Any]
RequestBody = tuple[bytes, str]  # with the media type

_CONNECTION_ERRORS = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
_SAFE = ("GET", "HEAD")
_PIECE_BYTES = 16 * 1024  # of a body; before each one, the client looks for an early response


@dataclass(frozen=True)
class HttpResponse:
    """A response of the service; names of headers are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """The URL of a service, a key, and one connection for each thread. Close it, or use it in `with`."""

    def __init__(
        self, url: str, key: str | None = None, timeout: float = 60.0, context: ssl.SSLContext | None = None
    ) -> None:
        """Create a client; no connection is opened yet.

        Args:
            url: The URL of the service, such as http://127.0.0.1:8000.
            key: A key from `simile keys create`.
            timeout: Seconds without a byte after which a request fails.
            context: TLS settings for https.
        """
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ClientError(f"{url!r} is not the URL of a service. Write a URL such as http://127.0.0.1:8000.")
        self._address, self._timeout, self._context = address, timeout, context
        self._base_path = address.path.rstrip("/")
        self._headers = {"Accept": "application/json, image/*"} | ({} if key is None else {"X-API-Key": key})
        self._thread_local = local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this thread's connection; the next request opens another one."""
        connection = self._thread_local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    def request(self, method: str, target: str, body: RequestBody | None = None) -> HttpResponse:
        """Send one request. Raises Unreachable, and the Problem that the service responds with."""
        try:
            response = self._send_request(method, target, body, self._thread_local.__dict__.get("connection"))
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(
                f"{self._address.geturl()} cannot be reached: {error or type(error).__name__}."
            ) from error
        if response.status >= 400:
            raise make_problem(response.status, response.body, response.headers.get("retry-after"))
        return response

    def stream_lines(self, target: str) -> Iterator[str]:
        """Yield the lines of an endless response over a separate connection. Raises as `request`."""
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
            raise Unreachable(
                f"The connection to {self._address.geturl()} broke: {error or type(error).__name__}."
            ) from error
        finally:
            connection.close()

    def _send_request(
        self, method: str, target: str, body: RequestBody | None, open_connection: http.client.HTTPConnection | None
    ) -> HttpResponse:
        if open_connection is not None and _is_closed(open_connection):
            self.close()
            open_connection = None
        connection = open_connection or self._connect()
        headers = self._headers
        upload = None if body is None else _RequestBodyPieces(connection, body[0])
        is_sent = False
        if body is not None:
            headers = {**headers, "Content-Type": body[1], "Content-Length": str(len(body[0]))}
        try:
            try:
                connection.request(method, self._base_path + target, upload, headers)
                is_sent = upload is None or upload.is_complete
            except OSError:
                # The service may have responded before it had the whole body, and closed the connection.
                if connection.sock is None or not _is_readable(connection.sock):
                    raise
            response = connection.getresponse()
        except _CONNECTION_ERRORS:
            # The service may have closed a kept connection at this moment. It may have processed a sent request, so
            # only safe methods are repeated: a second DELETE would give 404, a second POST of a job 409.
            if open_connection is None or (is_sent and method not in _SAFE):
                raise
            self.close()
            return self._send_request(method, target, body, None)
        response_headers = {name.lower(): value for name, value in response.getheaders()}
        result = HttpResponse(response.status, response_headers, response.read())
        if response.will_close or not is_sent:
            connection.close()
            self._thread_local.__dict__.pop("connection", None)
        else:
            self._thread_local.connection = connection
        return result

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._address.hostname or "", self._address.port
        if self._address.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)


class _RequestBodyPieces:
    """The pieces of a body. They end early when the service responds: it reads no more, and would reset the connection.

    `is_complete`: all of the body was handed to the system.
    """

    def __init__(self, connection: http.client.HTTPConnection, body: bytes) -> None:
        self._connection, self._body = connection, memoryview(body)
        self.is_complete = False

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self._body), _PIECE_BYTES):
            if _has_early_response(self._connection):
                return
            yield self._body[start : start + _PIECE_BYTES]
        self.is_complete = True


def _has_early_response(connection: http.client.HTTPConnection) -> bool:
    """Wait until the connection takes more of a body, and return whether there is something to read before that."""
    sock = connection.sock
    if isinstance(sock, ssl.SSLSocket):  # also readable when the service sends TLS session tickets
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        return any(events & selectors.EVENT_READ for _, events in selector.select(sock.gettimeout()))


def _is_readable(sock: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _is_closed(connection: http.client.HTTPConnection) -> bool:
    """Return whether the service has closed this idle connection: its end or unexpected data can be read."""
    return connection.sock is None or _is_readable(connection.sock)


def json_body(value: Any) -> RequestBody:
    """Return a JSON body."""
    return json.dumps(value, allow_nan=False).encode(), "application/json"


def form_body(fields: FormFields, files: Sequence[tuple[str, ImageSource]]) -> RequestBody:
    """Return a form (RFC 7578) of fields and (field, image) files. Raises ClientError for an unreadable file."""
    boundary = uuid.uuid4().hex
    parts = [_make_form_part(boundary, name, str(value).encode()) for name, value in _flatten_fields(fields)]
    for name, image in files:
        data, file_name = _read_image_source(image)
        parts.append(_make_form_part(boundary, name, data, file_name))
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def make_query_string(fields: FormFields) -> str:
    """Return `?a=1&b=2`, empty without fields."""
    pairs = list(_flatten_fields(fields))
    return f"?{urlencode(pairs)}" if pairs else ""


def _flatten_fields(fields: FormFields) -> Iterator[tuple[str, object]]:
    """Yield names and values; a list repeats its name, None is left out, booleans are lower case."""
    for name, field in fields.items():
        for value in field if isinstance(field, list | tuple) else [field]:
            if value is not None:
                yield name, str(value).lower() if isinstance(value, bool) else value


def _read_image_source(image: ImageSource) -> tuple[bytes, str]:
    if isinstance(image, bytes):
        return image, "image"
    path = Path(image)
    try:
        return path.read_bytes(), path.name
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}.") from error


def _make_form_part(boundary: str, name: str, data: bytes, file_name: str | None = None) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
    if file_name is not None:
        plain = file_name.encode("utf-8", "replace").decode().replace("\\", "_").replace('"', "%22")
        plain = plain.replace("\r", "_").replace("\n", "_")
        head += f'; filename="{plain}"\r\nContent-Type: application/octet-stream'
    return f"{head}\r\n\r\n".encode() + data + b"\r\n"
