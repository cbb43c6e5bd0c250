"""The client's address behind reverse proxies: only proxies named in SIMILE_TRUSTED_PROXIES are trusted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import Scope

from simile.core.hosts import IpNetwork

# Headers that a proxy may add; all that begin with the prefix count too. A client on this machine sends none of them.
_FORWARDED_PREFIXES = ("x-forwarded-", "x-original-", "cf-", "x-envoy-", "x-appengine-", "fastly-", "x-amzn-")
_FORWARDED_HEADERS = frozenset(
    {"forwarded", "via", "true-client-ip", "x-client-ip", "x-cluster-client-ip", "x-real-ip", "x-remote-ip"}
    | {"x-remote-addr", "x-azure-clientip", "x-azure-socketip", "fly-client-ip", "x-nginx-proxy", "client-ip"}
    | {"x-proxyuser-ip", "x-arr-log-id", "proxy-connection"}
)
_PORT_PATTERN = re.compile(r"([\d.]+|\[[0-9a-fA-F:.]+\]):\d{1,5}")


def apply_forwarded_headers(scope: Scope, trusted_proxies: Sequence[IpNetwork]) -> None:
    """Write the client's address and scheme, as reported by trusted proxies, into the scope."""
    client = scope.get("client")
    if not trusted_proxies or client is None or not _is_in_networks(client[0], trusted_proxies):
        return
    headers = Headers(scope=scope)
    # Each proxy appends the address that it saw. Everything left of the first untrusted address may be forged.
    items = [item.strip() for item in ",".join(headers.getlist("x-forwarded-for")).split(",")]
    chain = [_remove_port(item) for item in items if item]
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
    """Return whether the client is on this machine, as far as the request shows; false if a proxy may have sent it.

    A proxy shows itself by a header that it adds, or by HTTP/1.0, which nginx uses by default and clients do not. A
    proxy that does neither cannot be distinguished from a client: behind a proxy, a home needs keys.
    """
    names = (name.decode("latin-1") for name, _ in scope["headers"])
    if scope.get("http_version") == "1.0" or any(
        name in _FORWARDED_HEADERS or name.startswith(_FORWARDED_PREFIXES) for name in names
    ):
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


def _remove_port(address: str) -> str:
    """Return `1.2.3.4` of `1.2.3.4:567`, and `::1` of `[::1]:567`: some proxies add the port of the client."""
    match = _PORT_PATTERN.fullmatch(address)
    return (match[1] if match else address).strip("[]")


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
