"""All URLs of the service."""

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
    """Return the URL of an image's record."""
    return f"{API}/images/{image_id}"


def file(image_id: int) -> str:
    """Return the URL of an image's file."""
    return f"{image(image_id)}/file"


def thumbnail(image_id: int, side: int | None = None) -> str:
    """Return the URL of a thumbnail; `side`: maximum width and height in pixels."""
    return f"{image(image_id)}/thumbnail" + ("" if side is None else f"?side={side}")


def reconstruction(image_id: int) -> str:
    """Return the URL of an image's reconstruction, a PNG."""
    return f"{image(image_id)}/reconstruction"


def image_urls(image_id: int) -> dict[str, str]:
    """Return the URL fields of a response about an image."""
    return {
        "file_url": file(image_id),
        "thumbnail_url": thumbnail(image_id),
        "reconstruction_url": reconstruction(image_id),
    }


def job(job_id: int) -> str:
    """Return the URL of an indexing job."""
    return f"{API}/jobs/{job_id}"


def job_events(job_id: int) -> str:
    """Return the URL of a job's server-sent events."""
    return f"{job(job_id)}/events"


def job_cancel(job_id: int) -> str:
    """Return the URL that cancels a job."""
    return f"{job(job_id)}/cancel"


def job_failures(job_id: int) -> str:
    """Return the URL of the list of files that a job could not read."""
    return f"{job(job_id)}/failures"


def metadata(image_id: int) -> str:
    """Return the URL of an image's metadata."""
    return f"{image(image_id)}/metadata"


def similar_page(image_id: int, limit: int | None = None) -> str:
    """Return the URL of the page with images similar to an image."""
    return search_page(image_id=image_id, limit=limit)


def image_page(image_id: int) -> str:
    """Return the URL of the page of one image."""
    return f"{IMAGE_PAGES}/{image_id}"


def search_page(**params: object) -> str:
    """Return the URL of a search page."""
    return f"{SEARCH_PAGE}{_make_query_string(params)}"


def collection_page(**params: object) -> str:
    """Return the URL of a page of the collection."""
    return f"{COLLECTION_PAGE}{_make_query_string(params)}"


def latent_page(**params: object) -> str:
    """Return the URL of the latent space page, between images a and b."""
    return f"{LATENT_PAGE}{_make_query_string(params)}"


def difference(first: int, second: int, show: str | None = None) -> str:
    """Return the URL of the difference image of two images; show `overlay`: the second one aligned with the first."""
    return f"{API}/duplicates/difference{_make_query_string({'first': first, 'second': second, 'show': show})}"


def plan(**params: object) -> str:
    """Return the URL of the cleanup plan, a file to download."""
    return f"{API}/duplicates/plan{_make_query_string(params)}"


def duplicates_page(**params: object) -> str:
    """Return the URL of the page where duplicates are reviewed."""
    return f"{DUPLICATES_PAGE}{_make_query_string(params)}"


def _make_query_string(params: dict[str, object]) -> str:
    """Return `?a=1&b=2`; empty values are left out, a list repeats its name."""
    given = {name: value for name, value in params.items() if value not in (None, "", (), [])}
    return f"?{urlencode(given, doseq=True)}" if given else ""
