"""Who is at the other end, when a proxy stands between: only proxies that the operator named are believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

from simile.core.hosts import IpNetwork


def apply_forwarded_headers(scope: Scope, trusted_proxies: Sequence[IpNetwork]) -> None:
    """Puts the client's own address and scheme into the scope, as the trusted proxies in front tell them."""
    client = scope.get("client")
    if not trusted_proxies or client is None or not _is_in_networks(client[0], trusted_proxies):
        return
    headers = Headers(scope=scope)
    # Each proxy adds the address that it saw at the right: what stands left of the first strange one may be made up.
    chain = [one.strip() for one in ",".join(headers.getlist("x-forwarded-for")).split(",") if one.strip()]
    stranger = next(
        (one for one in reversed(chain) if not _is_in_networks(one, trusted_proxies)), chain[0] if chain else None
    )
    if stranger is not None:
        scope["client"] = (stranger[:64], 0)
    scheme = headers.get("x-forwarded-proto", "").strip().lower()
    if scheme in ("http", "https"):
        scope["scheme"] = scheme


def get_client_address(scope: Scope) -> str:
    """The client's address to count by: an IPv6 network of 64 bits is one household."""
    client = scope.get("client")
    address = _parse_address(client[0]) if client else None
    if address is None:
        return "local"  # a Unix socket
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


def is_local_client(scope: Scope) -> bool:
    """Whether the client is on this machine, as far as anybody can tell: behind a proxy nobody can."""
    headers = Headers(scope=scope)
    if "x-forwarded-for" in headers or "forwarded" in headers:
        return False
    client = scope.get("client")
    address = _parse_address(client[0]) if client else None
    return address is None or address.is_loopback


def is_single_client(scope: Scope, trusted_proxies: Sequence[IpNetwork]) -> bool:
    """Whether the address is that of one client: neither this machine's own, nor a proxy's that does not say for whom.

    Programs on this machine are few and known, or a proxy, and through a proxy many clients come.
    """
    client = scope.get("client")
    address = _parse_address(client[0]) if client else None
    return address is not None and not address.is_loopback and not _is_in_networks(str(address), trusted_proxies)


def _is_in_networks(address: str, networks: Sequence[IpNetwork]) -> bool:
    parsed = _parse_address(address)
    return parsed is not None and any(parsed in network for network in networks)


@lru_cache(4096)  # a client asks again, and each request needs it three times
def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1, from a socket for both
    return mapped or address
