"""Connections that send nothing, or too much at once, do not keep out other clients."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress

from simile.core.settings import Settings
from simile.service.server.connections import MAX_PIPELINED
from tests.support.server import get, is_closed, listening, read_reply


def test_connections_that_send_nothing_do_not_keep_out_a_client(shared_home: Settings) -> None:
    settings = shared_home.model_copy(update={"connections": 8})
    with listening(settings) as serving, ExitStack() as stack:
        mute = [stack.enter_context(serving.connect()) for _ in range(40)]
        for _ in range(20):
            assert serving.answer(get("/livez")).status == 200
            mute.append(stack.enter_context(serving.connect()))
        assert is_closed(mute[0])


def test_a_connection_with_a_request_in_progress_is_not_closed_for_another(shared_home: Settings) -> None:
    settings = shared_home.model_copy(update={"connections": 2})
    body = b"--b\r\n"
    begin = get("/v1/search", "Content-Type: multipart/form-data; boundary=b", "Content-Length: 1000")
    begin = begin.replace(b"GET", b"POST", 1) + body
    with listening(settings) as serving, serving.connect() as one, serving.connect() as other:
        for connection in (one, other):
            connection.sendall(begin)
        while serving.server.app.state.upload_limiter.active_count < 2:
            pass
        reply = serving.answer(get("/livez"))
        assert reply.status == 503 and reply.json()["type"].endswith("too-many-connections")
        for connection in (one, other):
            connection.sendall(bytes(1000 - len(body)))
            assert read_reply(connection).status == 400


def test_a_few_pipelined_requests_are_answered_in_order(shared_home: Settings) -> None:
    with listening(shared_home) as serving, serving.connect() as connection:
        connection.sendall(b"".join(get("/livez", f"X-Request-Id: {number}") for number in range(10)))
        received = b""
        while received.count(b'{"status":"alive"}') < 10:
            received += connection.recv(65536)
        assert re.findall(rb"x-request-id: (\d)", received.lower()) == [b"%d" % number for number in range(10)]


def test_thousands_of_pipelined_requests_are_not_queued(shared_home: Settings) -> None:
    with listening(shared_home) as serving, serving.connect() as connection:
        connection.sendall(get("/livez") * 1000)
        received = b""
        with suppress(ConnectionResetError):
            while data := connection.recv(65536):
                received += data
        assert received.count(b"HTTP/1.1 200") <= MAX_PIPELINED + 1
        assert serving.answer(get("/livez")).status == 200
