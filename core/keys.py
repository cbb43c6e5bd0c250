"""Keys of the service: their format, their scopes, and how they are made and hashed.

    simile_0123456789ab_<43 letters>
           |            256 random bits, base64url
           prefix: identifies the key, is not secret

Only the SHA-256 of the whole key is stored. A slow hash (bcrypt, Argon2) protects passwords that people choose; 256
random bits can't be guessed however fast the hash is, and every request would have to pay for a slow one.
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
SCOPES: tuple[Scope, ...] = get_args(Scope)  # each scope includes the ones before it

_KEY_PATTERN = re.compile(r"simile_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_KEY_NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9 ._@-]{0,63}")


@dataclass(frozen=True)
class NewKey:
    """A new key, shown once. Its secret text is left out of `repr()`."""

    prefix: str
    text: str = field(repr=False)


def make_key() -> NewKey:
    """Make a new random key."""
    prefix = secrets.token_hex(6)
    return NewKey(prefix, f"simile_{prefix}_{secrets.token_urlsafe(32)}")


def make_session_token() -> str:
    """Return 256 random bits for a session cookie."""
    return secrets.token_urlsafe(32)


def hash_secret(text: str) -> str:
    """Return the SHA-256 of a key or cookie in hexadecimal: the form in which it is stored."""
    return sha256(text.encode("utf-8", "replace")).hexdigest()


def parse_key_prefix(text: str) -> str | None:
    """Return the prefix of a key, or None if the text does not have the format of a key."""
    match = _KEY_PATTERN.fullmatch(text)
    return None if match is None else match[1]


def matches_digest(text: str, expected_digest: str) -> bool:
    """Return whether `expected_digest` is the digest of `text`, in constant time."""
    return hmac.compare_digest(hash_secret(text), expected_digest)


def scope_allows(scope: Scope, required: Scope) -> bool:
    """Return whether a key of this scope may do what requires the other scope."""
    return SCOPES.index(scope) >= SCOPES.index(required)


def check_key_name(name: str) -> str:
    """Return the name if it is a valid name of a key, as it will appear in logs. Raises BadSetting."""
    if not _KEY_NAME_PATTERN.fullmatch(name):
        raise BadSetting(
            f"A key can't be called {name!r}. Take up to 64 letters, digits, spaces and . _ @ -; begin with a letter."
        )
    return name
