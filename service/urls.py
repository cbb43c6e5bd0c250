"""Every address of the service, built in one place."""

from __future__ import annotations

from urllib.parse import urlencode

API = "/v1"
PAGE = "/"
DUPLICATES_PAGE = "/duplicates"
STATIC = "/static"
DOCS = "/docs"


def image(image_id: int) -> str:
    """What the catalogue knows of an image."""
    return f"{API}/images/{image_id}"


def file(image_id: int) -> str:
    """The image's own file."""
    return f"{image(image_id)}/file"


def thumbnail(image_id: int, side: int | None = None) -> str:
    """A small version of it; with `side` as large as that many pixels."""
    return f"{image(image_id)}/thumbnail" + ("" if side is None else f"?side={side}")


def reconstruction(image_id: int) -> str:
    """What the model saw in it, as a PNG."""
    return f"{image(image_id)}/reconstruction"


def page_for(image_id: int, limit: int | None = None) -> str:
    """The page that shows what is similar to an image."""
    given = {"image_id": image_id} | ({} if limit is None else {"limit": limit})
    return f"{PAGE}?{urlencode(given)}"


def difference(first: int, second: int, show: str | None = None) -> str:
    """A picture of what differs between two images; show `overlay`: the second as it lies on the first."""
    given = {"first": first, "second": second} | ({} if show is None else {"show": show})
    return f"{API}/duplicates/difference?{urlencode(given)}"


def plan(**given: object) -> str:
    """The plan of what was decided, as a file to download."""
    return f"{API}/duplicates/plan{_asked(given)}"


def duplicates_page(**given: object) -> str:
    """The page on which copies are reviewed."""
    return f"{DUPLICATES_PAGE}{_asked(given)}"


def _asked(given: dict[str, object]) -> str:
    """`?a=1&b=2` of what is given; a list stands once for each of its values."""
    known = {name: value for name, value in given.items() if value not in (None, "", (), [])}
    return f"?{urlencode(known, doseq=True)}" if known else ""
