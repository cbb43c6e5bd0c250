"""Every address of the service, built in one place."""

from __future__ import annotations

from urllib.parse import urlencode

API = "/v1"
PAGE = "/"
STATIC = "/static"
DOCS = "/docs"


def image(image_id: int) -> str:
    """What the catalogue knows of an image."""
    return f"{API}/images/{image_id}"


def file(image_id: int) -> str:
    """The image's own file."""
    return f"{image(image_id)}/file"


def thumbnail(image_id: int) -> str:
    """A small version of it."""
    return f"{image(image_id)}/thumbnail"


def reconstruction(image_id: int) -> str:
    """What the model saw in it, as a PNG."""
    return f"{image(image_id)}/reconstruction"


def page_for(image_id: int, limit: int | None = None) -> str:
    """The page that shows what is similar to an image."""
    given = {"image_id": image_id} | ({} if limit is None else {"limit": limit})
    return f"{PAGE}?{urlencode(given)}"
