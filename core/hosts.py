"""Names, origins and addresses as the settings write them: several with commas between."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")
_ORIGIN = re.compile(r"https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:\d{1,5})?")


def read_hosts(text: str | None) -> frozenset[str]:
    """Host names and addresses, lower case, without ports and brackets. Raises ValueError."""
    hosts = [name.strip("[]") for name in _listed(text)]
    for name in hosts:
        if not _HOST.fullmatch(name):
            raise ValueError(f"{name!r} is no host name; give names or addresses, without a scheme or a port")
    return frozenset(hosts)


def read_origins(text: str | None) -> tuple[str, ...]:
    """Origins as browsers send them. Raises ValueError; also for `*`: whoever may read answers has a name."""
    origins = tuple(_listed(text))
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin; give https://HOST or http://HOST:PORT, nothing behind it")
    return origins


def read_networks(text: str | None) -> tuple[Network, ...]:
    """Addresses and networks. Raises ValueError."""
    return tuple(ipaddress.ip_network(one) for one in _listed(text))


def host_of(header: str) -> str:
    """The name in a Host header, lower case, without port and brackets; empty for what is no host."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/@\s]+)(?::\d{1,5})?", header)
    return "" if found is None else found[1].strip("[]").lower().rstrip(".")


@lru_cache(1024)  # every request asks it of its Host
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on this address or name."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _listed(text: str | None) -> list[str]:
    return [one.strip().lower() for one in (text or "").split(",") if one.strip()]


READERS: Mapping[str, Callable[[str | None], Any]] = {
    "allowed_hosts": read_hosts,
    "cors_origins": read_origins,
    "trusted_proxies": read_networks,
}
