"""Upload files that are small to send and slow to decode, several at a time."""

from __future__ import annotations

from functools import partial

from tests.attacks.hostile_files import HOSTILE_FILES, TOO_MANY_PIECES, make_png
from tests.attacks.target import Reply, Target, describe, run_together
from tests.support.server import BOUNDARY, FORM

FILES_OF_A_FORM = 32


def attack_with_every_file(target: Target) -> str:
    """Upload each hostile file."""
    names = TOO_MANY_PIECES if target.is_short else HOSTILE_FILES
    replies: list[Reply] = []
    for name in names:
        data = HOSTILE_FILES[name](target.size)
        replies += run_together([partial(target.upload, "/v1/search?limit=1", data)] * 2)
    return describe(replies, (200, 413, 422, 429, 503))


def attack_with_slow_files(target: Target) -> str:
    """Upload files that take close to the CPU limit, on every route that decodes."""
    data = make_png(b"", target.side)
    paths = ("/v1/search", "/v1/latents", "/v1/reconstructions", "/v1/uncertainty", "/v1/search?certainty=full")
    calls = [partial(target.upload, path, data) for path in paths for _ in range(target.count)]
    return describe(run_together(calls), (200, 422, 429, 503))


def attack_with_many_files(target: Target) -> str:
    """Send forms with as many files as a form may have."""
    data = make_png(b"", target.side // 2)
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'.encode()
    body = (part + data + b"\r\n") * FILES_OF_A_FORM + f"--{BOUNDARY}--\r\n".encode()
    calls = [partial(target.request, "POST", "/v1/search", body, {"Content-Type": FORM})] * target.count
    return describe(run_together(calls), (200, 422, 429, 503))


ATTACKS = (attack_with_every_file, attack_with_slow_files, attack_with_many_files)
