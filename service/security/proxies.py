"""The client's address behind reverse proxies: only proxies named in SIMILE_TRUSTED_PROXIES are trusted."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

from simile.core.hosts import IpNetwork


def apply_forwarded_headers(scope: Scope, trusted_proxies: Sequence[IpNetwork]) -> None:
    """Write the client's address and scheme, as reported by trusted proxies, into the scope."""
    client = scope.get("client")
    if not trusted_proxies or client is None or not _is_in_networks(client[0], trusted_proxies):
        return
    headers = Headers(scope=scope)
    # Each proxy appends the address that it saw. Everything left of the first untrusted address may be forged.
    chain = [item.strip() for item in ",".join(headers.getlist("x-forwarded-for")).split(",") if item.strip()]
    stranger = next(
        (item for item in reversed(chain) if not _is_in_networks(item, trusted_proxies)), chain[0] if chain else None
    )
    if stranger is not None:
        scope["client"] = (stranger[:64], 0)
    scheme = headers.get("x-forwarded-proto", "").strip().lower()
    if scheme in ("http", "https"):
        scope["scheme"] = scheme


def get_client_address(scope: Scope) -> str:
    """Return the address by which requests are counted; an IPv6 /64 network counts as one client."""
    client = scope.get("client")
    address = _parse_address(client[0]) if client else None
    if address is None:
        return "local"  # a Unix socket
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


def is_local_client(scope: Scope) -> bool:
    """Return whether the client is known to be on this machine; false behind any proxy."""
    headers = Headers(scope=scope)
    if "x-forwarded-for" in headers or "forwarded" in headers:
        return False
    client = scope.get("client")
    address = _parse_address(client[0]) if client else None
    return address is None or address.is_loopback


def is_single_client(scope: Scope, trusted_proxies: Sequence[IpNetwork]) -> bool:
    """Return whether the address belongs to one client, not to this machine or to a trusted proxy.

    A program on this machine may be a proxy, which sends the requests of many clients.
    """
    client = scope.get("client")
    address = _parse_address(client[0]) if client else None
    return address is not None and not address.is_loopback and not _is_in_networks(str(address), trusted_proxies)


def _is_in_networks(address: str, networks: Sequence[IpNetwork]) -> bool:
    parsed = _parse_address(address)
    return parsed is not None and any(parsed in network for network in networks)


@lru_cache(4096)  # each request needs it three times
def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1, from a dual-stack socket
    return mapped or address
