"""Names, origins and addresses as the settings write them: several with commas between."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST_PATTERN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")
_ORIGIN_PATTERN = re.compile(r"https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:\d{1,5})?")


def parse_hosts(text: str | None) -> frozenset[str]:
    """Host names and addresses, lower case, without ports and brackets. Raises ValueError."""
    hosts = [name.strip("[]") for name in _split_list(text)]
    for name in hosts:
        if not _HOST_PATTERN.fullmatch(name):
            raise ValueError(f"{name!r} is no host name; give names or addresses, without a scheme or a port")
    return frozenset(hosts)


def parse_origins(text: str | None) -> tuple[str, ...]:
    """Origins as browsers send them. Raises ValueError; also for `*`: whoever may read answers has a name."""
    origins = tuple(_split_list(text))
    for origin in origins:
        if not _ORIGIN_PATTERN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin; give https://HOST or http://HOST:PORT, nothing behind it")
    return origins


def parse_networks(text: str | None) -> tuple[IpNetwork, ...]:
    """Addresses and networks. Raises ValueError."""
    return tuple(ipaddress.ip_network(one) for one in _split_list(text))


def parse_host_header(header: str) -> str:
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


def _split_list(text: str | None) -> list[str]:
    return [one.strip().lower() for one in (text or "").split(",") if one.strip()]


SETTING_PARSERS: Mapping[str, Callable[[str | None], Any]] = {
    "allowed_hosts": parse_hosts,
    "cors_origins": parse_origins,
    "trusted_proxies": parse_networks,
}
