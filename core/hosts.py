"""Parse the settings that are URLs or comma-separated lists: host names, origins, networks, and folders by name."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST_PATTERN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")
_ORIGIN_PATTERN = re.compile(r"https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:\d{1,5})?")
_HOST_HEADER_PATTERN = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/@\s]+)(?::\d{1,5})?")
_ROOT_PATH_PATTERN = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)+")
# Without "@", "?" and ":": such a URL could contain credentials.
_OBJECTS_URL_PATTERN = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/(?!\.\.?(/|$))[A-Za-z0-9._=+-]+)*")
_ROOT_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def parse_hosts(text: str | None) -> frozenset[str]:
    """Parse host names and addresses: lower case, without ports and brackets. Raises ValueError."""
    hosts = [name.strip("[]").lower() for name in _split_list(text)]
    for name in hosts:
        if not _HOST_PATTERN.fullmatch(name):
            raise ValueError(f"{name!r} is no host name; give names or addresses, without a scheme or a port")
    return frozenset(hosts)


def parse_origins(text: str | None) -> tuple[str, ...]:
    """Parse origins as browsers send them. Raises ValueError, also for `*`: each origin must be named."""
    origins = tuple(origin.lower() for origin in _split_list(text))
    for origin in origins:
        if not _ORIGIN_PATTERN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin; give https://HOST or http://HOST:PORT, without a path")
    return origins


def parse_networks(text: str | None) -> tuple[IpNetwork, ...]:
    """Parse IP addresses and networks. Raises ValueError."""
    return tuple(ipaddress.ip_network(address.lower()) for address in _split_list(text))


def parse_root_path(text: str) -> str:
    """Parse the path prefix of a proxy: no slash at its end, and empty for the root. Raises ValueError."""
    path = text.rstrip("/")
    if path and not _ROOT_PATH_PATTERN.fullmatch(path):
        raise ValueError("give a path such as /photos, of letters, digits and . _ ~ -")
    return path


def parse_roots(text: str | None) -> dict[str, Path]:
    """Parse the folders that may be indexed over HTTP, such as `photos=/photos,scans=/scans`.

    Clients give their names, never paths. The folders are absolute. Raises ValueError.
    """
    roots: dict[str, Path] = {}
    for pair in _split_list(text):
        name, _, folder = (part.strip() for part in pair.partition("="))
        if not folder:
            raise ValueError(f"{pair!r} is not NAME=FOLDER (and no folder's name may hold a comma)")
        if not _ROOT_NAME_PATTERN.fullmatch(name):
            raise ValueError(f"{name!r} is no name: letters, digits, - and _, at most 64")
        if name in roots:
            raise ValueError(f"{name!r} is there twice")
        roots[name] = Path(folder) if folder.startswith("s3://") else Path(folder).expanduser().absolute()
    return roots


def parse_objects_url(text: str) -> str:
    """Return the URL of an object store without a slash at the end. Raises ValueError, without the text."""
    url = text.strip().rstrip("/")
    if not _OBJECTS_URL_PATTERN.fullmatch(url):
        raise ValueError("it is not s3://BUCKET or s3://BUCKET/PREFIX; credentials and endpoint are AWS variables")
    return url


def parse_host_header(header: str) -> str:
    """Return the host of a Host header: lower case, without port and brackets; empty if the header is invalid."""
    match = _HOST_HEADER_PATTERN.fullmatch(header)
    return "" if match is None else match[1].strip("[]").lower().rstrip(".")


@lru_cache(1024)  # called for the Host header of every request
def is_loopback(host: str) -> bool:
    """Return whether this address or name can be reached from this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _split_list(text: str | None) -> list[str]:
    return [item.strip() for item in (text or "").split(",") if item.strip()]


# By the name of the setting. Each parser raises ValueError for a text that it can't parse.
SETTING_PARSERS: Mapping[str, Callable[[str | None], Any]] = {
    "allowed_hosts": parse_hosts,
    "cors_origins": parse_origins,
    "trusted_proxies": parse_networks,
    "roots": parse_roots,
}
