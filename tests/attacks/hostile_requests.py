"""Requests that are costly to parse, that look like requests through a proxy, or that guess keys."""

from __future__ import annotations

import base64
from functools import partial

from tests.attacks.target import Target, describe, run_together

CODECS = ("punycode", "idna", "undefined", "utf-7", "unicode_escape", "raw_unicode_escape", "zlib", "base64", "rot13")
FORM_TYPES = ("multipart/form-data; boundary=b", "application/x-www-form-urlencoded")


def attack_with_charsets(target: Target) -> str:
    """Send forms in every codec of Python that decodes slowly, with and without a key."""
    replies = []
    for codec in CODECS:
        for path, key in (("/v1/search", target.key), ("/signin", "")):
            for kind in FORM_TYPES:
                field = b"a" * (7900 if path == "/signin" else 400_000)
                body = b'--b\r\nContent-Disposition: form-data; name="where"\r\n\r\n' + field + b"\r\n--b--\r\n"
                replies.append(
                    target.request("POST", path, body, {"Content-Type": f"{kind}; charset={codec}"}, key=key)
                )
    return describe(replies, (400, 401, 403, 413, 415, 422))


def attack_with_many_fields(target: Target) -> str:
    """Send a form of many fields, a JSON body of great depth, and long numbers."""
    part = b'--simile\r\nContent-Disposition: form-data; name="where"\r\n\r\nx\r\n'
    form = {"Content-Type": "multipart/form-data; boundary=simile"}
    json = {"Content-Type": "application/json"}
    return describe(
        [
            target.request("POST", "/v1/search", part * 200_000 + b"--simile--\r\n", form),
            target.request("POST", "/v1/search", b"[" * 500_000, json),
            target.request("POST", "/v1/search", b'{"image_id": ' + b"9" * 1_000_000 + b"}", json),
            *(
                target.request("POST", path, b'{"searches": [' + value * (900_000 // len(value)) + b"1]}", json)
                for path in ("/v1/search/batch", "/v1/search", "/v1/latents", "/v1/map")
                for value in (b"{},", b"[],", b"1,", b'"x",', b'{"a":1},')
            ),
            target.request("POST", "/v1/search", b"--simile" + b"\r\n-" * (target.size // 3), form),
            target.request("GET", "/v1/search?where=" + "x" * 8000),
        ],
        (0, 400, 404, 405, 413, 414, 422),  # 0: the connection ended before the whole body was sent
    )


def attack_by_guessing(target: Target) -> str:
    """Send wrong keys, wrong cookies and no key, as fast as possible."""
    wrong = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
    calls = [partial(target.request, "GET", "/v1/status", key=f"simile_{number:08d}_{wrong}") for number in range(40)]
    calls += [
        partial(target.request, "GET", "/v1/status", None, {"Cookie": f"simile_session={number}{wrong}"}, key="")
        for number in range(40)
    ]
    calls += [partial(target.request, "GET", "/v1/status", key="")] * 40
    replies = run_together(calls)
    assert target.request("GET", "/v1/status").status == 200, "the right key of the same address is refused"
    return describe(replies, (401, 429))


def attack_with_control_characters(target: Target) -> str:
    """Request paths that a terminal would obey if the log did not escape them."""
    paths = ("/v1/x%1b]0;title%07%1b[31m", "/v1/x%00", "/v1/%c2%9b31m", "/v1/images/1%0aINFO")
    return describe([target.request("GET", path) for path in paths], (400, 404, 422))


ATTACKS = (attack_with_charsets, attack_with_many_fields, attack_by_guessing, attack_with_control_characters)
