"""Whether the service may listen where it was told to."""

from __future__ import annotations

from core.errors import BadSetting
from core.origins import is_loopback
from core.settings import Settings
from store.catalogue import Catalogue
from store.engine import exists
from store.home import Home


def check_binding(settings: Settings) -> None:
    """Raises BadSetting for an address that others can reach, in front of a home that has no keys."""
    if is_loopback(settings.host) or settings.insecure or _has_keys(settings):
        return
    raise BadSetting(
        f"On {settings.host} others can reach the service, and {settings.home} has no keys. Make one: "
        "`simile keys create NAME --scope write`; or listen on 127.0.0.1. "
        "--insecure (SIMILE_INSECURE=1) serves without keys to everybody."
    )


def _has_keys(settings: Settings) -> bool:
    home = Home(settings.home, settings.database_url)
    if not exists(home):
        return False
    with Catalogue(home) as catalogue:
        return catalogue.has_keys()
