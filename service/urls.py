"""Every address of the service, built in one place."""

from __future__ import annotations

from urllib.parse import urlencode

API = "/v1"
SEARCH = f"{API}/search"
SEARCH_PAGE = "/"
COLLECTION_PAGE = "/collection"
IMAGE_PAGES = "/pictures"
DUPLICATES_PAGE = "/duplicates"
JOBS_PAGE = "/jobs"
MAP = f"{API}/map"
MAP_PAGE = "/map"
LATENT_PAGE = "/latent"
SIGN_IN = "/signin"
SIGN_OUT = "/signout"
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


def job(job_id: int) -> str:
    """How an indexing job stands."""
    return f"{API}/jobs/{job_id}"


def job_events(job_id: int) -> str:
    """The same as it goes on, as server-sent events."""
    return f"{job(job_id)}/events"


def job_cancel(job_id: int) -> str:
    """Where it is asked to stop."""
    return f"{job(job_id)}/cancel"


def job_failures(job_id: int) -> str:
    """The files that it set aside."""
    return f"{job(job_id)}/failures"


def metadata(image_id: int) -> str:
    """What is noted of it."""
    return f"{image(image_id)}/metadata"


def similar_page(image_id: int, limit: int | None = None) -> str:
    """The page that shows what is similar to an image."""
    given = {"image_id": image_id} | ({} if limit is None else {"limit": limit})
    return f"{SEARCH_PAGE}?{urlencode(given)}"


def image_page(image_id: int) -> str:
    """The page of one picture."""
    return f"{IMAGE_PAGES}/{image_id}"


def search_page(**params: object) -> str:
    """The page of a search."""
    return f"{SEARCH_PAGE}{_make_query_string(params)}"


def collection_page(**params: object) -> str:
    """The page of a stretch of the collection."""
    return f"{COLLECTION_PAGE}{_make_query_string(params)}"


def latent_page(**params: object) -> str:
    """The page of the latent space, between pictures a and b."""
    return f"{LATENT_PAGE}{_make_query_string(params)}"


def difference(first: int, second: int, show: str | None = None) -> str:
    """A picture of what differs between two images; show `overlay`: the second as it lies on the first."""
    given = {"first": first, "second": second} | ({} if show is None else {"show": show})
    return f"{API}/duplicates/difference?{urlencode(given)}"


def plan(**params: object) -> str:
    """The plan of what was decided, as a file to download."""
    return f"{API}/duplicates/plan{_make_query_string(params)}"


def duplicates_page(**params: object) -> str:
    """The page on which copies are reviewed."""
    return f"{DUPLICATES_PAGE}{_make_query_string(params)}"


def _make_query_string(params: dict[str, object]) -> str:
    """`?a=1&b=2` of what is given; a list stands once for each of its values."""
    known = {name: value for name, value in params.items() if value not in (None, "", (), [])}
    return f"?{urlencode(known, doseq=True)}" if known else ""
