"""A real S3 server in this process: moto's. Each test has a bucket of its own."""

from __future__ import annotations

import logging
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from simile.images.sources import buckets
from simile.images.sources.buckets import open_file_system, to_bucket_path

SECRET = "s3cret-of-the-store"  # which no message and no log may contain
KEY_ID = "AKIDOFTHESTORE"


@dataclass
class ObjectServer:
    """A server of objects, and the URL of an empty bucket in it. What it holds survives `stop` and `start`."""

    server: Any
    port: int
    url: str = ""
    is_running: bool = True

    def stop(self) -> None:
        self.server.stop()
        self.is_running = False

    def start(self) -> None:
        self.server = start_server(self.port)
        self.is_running = True

    def names(self, prefix: str = "") -> list[str]:
        """The names of the objects below a folder."""
        from pyarrow import fs

        path = to_bucket_path(f"{self.url}/{prefix}").rstrip("/")
        selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
        infos = open_file_system().get_file_info(selector)
        return [info.path[len(to_bucket_path(self.url)) + 1 :] for info in infos if info.is_file]

    def write(self, name: str, data: bytes) -> str:
        """Store an object; gives its URL."""
        with open_file_system().open_output_stream(to_bucket_path(f"{self.url}/{name}")) as stream:
            stream.write(data)
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        with open_file_system().open_input_stream(to_bucket_path(f"{self.url}/{name}")) as stream:
            return bytes(stream.read())

    def remove(self, name: str) -> None:
        open_file_system().delete_file(to_bucket_path(f"{self.url}/{name}"))


def start_server(port: int = 0) -> Any:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    return server


@cache
def get_server() -> ObjectServer:
    """One for each process of a run: stopping it takes half a second."""
    server = start_server()
    return ObjectServer(server, server.get_host_and_port()[1])


def serve_objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A server with an empty bucket; the environment leads to it."""
    pytest.importorskip("moto.server", reason="object stores are tested with moto's server")
    server = get_server()
    endpoint, bucket = f"http://127.0.0.1:{server.port}", f"simile-{uuid.uuid4().hex[:12]}"
    environment = {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(buckets, "MAX_ATTEMPTS", 1)  # a stopped server is noticed at once
    open_file_system.cache_clear()
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
    server.url = f"s3://{bucket}"
    yield server
    if not server.is_running:
        server.start()
    open_file_system.cache_clear()
