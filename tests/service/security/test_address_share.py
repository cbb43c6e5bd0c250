"""No address holds all the places for requests with pictures, however slowly it sends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from simile.core.hosts import parse_networks
from simile.core.settings import Settings
from simile.service.middleware.limits import FORM_OVERHEAD, UploadLimiter
from simile.service.security.proxies import is_single_client
from tests.support.server import form, head, listening, read_reply, upload
from tests.support.waiting import wait_until


def sent_for(address: str, data: bytes) -> tuple[bytes, bytes]:
    """An upload that a proxy passes on, but for its last bytes, and those."""
    body = form(data)
    whole = head("/v1/search", len(body), f"X-Forwarded-For: {address}") + body
    return whole[:-20], whole[-20:]


def test_one_address_that_sends_slowly_leaves_places_for_others(home_with_digits: Settings, digits: Path) -> None:
    pictures = [path.read_bytes() for path in sorted(digits.iterdir())[:2]]
    shared = home_with_digits.model_copy(update={"queue": 4, "trusted_proxies": "127.0.0.1", "insecure": True})
    start, rest = sent_for("203.0.113.5", pictures[0])
    with listening(shared) as serving, serving.connect() as first, serving.connect() as second:
        inside = serving.server.app.state.upload_limiter
        for connection in (first, second):
            connection.sendall(start)
        wait_until(lambda: inside.active_count == 2)
        third = serving.answer(start)
        assert third.status == 429 and third.headers["retry-after"] == "1"
        assert third.json()["type"] == "urn:problem-type:simile:too-many-at-once"
        assert serving.answer(b"".join(sent_for("203.0.113.6", pictures[1]))).status == 200
        assert serving.answer(upload("/v1/search", pictures[1])).status == 200  # a proxy that names nobody
        first.sendall(rest)
        assert read_reply(first).status == 200
        assert serving.answer(start + rest).status == 200
        second.sendall(rest)
        assert read_reply(second).status == 200
        registry = serving.server.app.state.metrics.registry
        assert registry.get_sample_value("simile_refused_total", {"reason": "too-many-at-once"}) == 1
        assert inside.active_count == 0 and not inside._active_by_address


def test_one_address_holds_a_share_of_the_bytes(
    home_with_digits: Settings, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few large uploads fill the space for temporary files as many small ones do."""
    data = sorted(digits.iterdir())[0].read_bytes()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10_000_000))
    shared = home_with_digits.model_copy(update={"trusted_proxies": "127.0.0.1", "insecure": True})
    large = head("/v1/search", 3_000_000, "X-Forwarded-For: 203.0.113.5")
    endless = head("/v1/search", 0, "X-Forwarded-For: 203.0.113.6").replace(
        b"Content-Length: 0", b"Transfer-Encoding: chunked"
    )
    with listening(shared) as serving, serving.connect() as first, serving.connect() as second:
        inside = serving.server.app.state.upload_limiter
        first.sendall(large)
        wait_until(lambda: inside.active_bytes == 3_000_000)
        refused = serving.answer(large)
        assert refused.status == 429 and "may hold 5,000,000" in refused.json()["detail"]
        assert serving.answer(b"".join(sent_for("203.0.113.5", data))).status == 200  # a small one has room
        full = serving.answer(head("/v1/search", 7_100_000, "X-Forwarded-For: 203.0.113.7"))
        assert full.status == 503 and "10,000,000 bytes" in full.json()["detail"]
        first.close()
        wait_until(lambda: not inside.active_count)
        second.sendall(endless)  # counts as the largest body, and one upload is always accepted
        wait_until(lambda: inside.active_bytes == shared.max_bytes + FORM_OVERHEAD)
    assert inside.active_bytes == 0 and not inside._bytes_by_address


def test_this_machine_is_nobody_in_particular() -> None:
    proxies = parse_networks("10.0.0.0/8")
    for address, is_one in (("203.0.113.5", True), ("127.0.0.1", False), ("::1", False), ("10.1.2.3", False)):
        assert is_single_client({"type": "http", "client": (address, 1)}, proxies) is is_one
    assert not is_single_client({"type": "http", "client": None}, proxies)
    house = UploadLimiter(1, 0.5)
    assert house.get_refusal("203.0.113.5") is None  # at least one place
    house.acquire("203.0.113.5")
    assert house.get_refusal("203.0.113.5").status_code == 429  # type: ignore[union-attr]
