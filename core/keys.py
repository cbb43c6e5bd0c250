"""Keys of the service: what one looks like, what it may do, and how it is made and hashed.

    simile_0123456789ab_<43 letters>
           |            256 random bits, base64url
           prefix: says which key it is, gives nothing away

Kept is the SHA-256 of the whole. A slow hash (bcrypt, Argon2) is made for passwords that people think up; nobody
guesses 256 random bits, however fast the hash, and each request would have to pay for it.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, get_args

from simile.core.errors import BadSetting

Scope = Literal["search", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # each may do what those before it may

_KEY_PATTERN = re.compile(r"simile_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_KEY_NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9 ._@-]{0,63}")


@dataclass(frozen=True)
class NewKey:
    """A key as it is shown once. Its text stays out of what Python prints of it."""

    prefix: str
    text: str = field(repr=False)


def make_key() -> NewKey:
    """A key that nobody has."""
    prefix = secrets.token_hex(6)
    return NewKey(prefix, f"simile_{prefix}_{secrets.token_urlsafe(32)}")


def make_session_token() -> str:
    """256 random bits for a cookie."""
    return secrets.token_urlsafe(32)


def hash_secret(text: str) -> str:
    """What is kept of a key or a cookie: SHA-256, hexadecimal."""
    return sha256(text.encode("utf-8", "replace")).hexdigest()


def parse_key_prefix(text: str) -> str | None:
    """The prefix of what may be a key; None for what can't be one."""
    found = _KEY_PATTERN.fullmatch(text)
    return None if found is None else found[1]


def matches_digest(text: str, expected_digest: str) -> bool:
    """Whether `kept` is the digest of `text`; takes equally long wherever they differ."""
    return hmac.compare_digest(hash_secret(text), expected_digest)


def scope_allows(scope: Scope, required: Scope) -> bool:
    """Whether a key of this scope may do what asks for the other."""
    return SCOPES.index(scope) >= SCOPES.index(required)


def check_key_name(name: str) -> str:
    """The name of a key, as people will read it in logs. Raises BadSetting."""
    if not _KEY_NAME_PATTERN.fullmatch(name):
        raise BadSetting(
            f"A key can't be called {name!r}. Take up to 64 letters, digits, spaces and . _ @ -; begin with a letter."
        )
    return name
