"""All URLs of the service."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from urllib.parse import urlencode

# The path prefix under which the client sees the service; middleware/root_path.py sets it for each request.
ROOT_PATH: ContextVar[str] = ContextVar("ROOT_PATH", default="")

# Paths of the routes, without the prefix.
API = "/v1"
SEARCH = f"{API}/search"
SEARCH_PAGE = "/"
COLLECTION_PAGE = "/collection"
IMAGE_PAGES = "/pictures"
DUPLICATES_PAGE = "/duplicates"
QUALITY_PAGE = "/quality"
JOBS_PAGE = "/jobs"
MAP = f"{API}/map"
MAP_PAGE = "/map"
LATENT_PAGE = "/latent"
SIGN_IN = "/signin"
SIGN_OUT = "/signout"
STATIC = "/static"
DOCS = "/docs"
MCP = "/mcp"  # for agents


def make_url(path: str, /, **params: object) -> str:
    """Return `prefix/path?a=1&b=true`; empty values are left out, a list repeats its name."""
    given = {name: value for name, value in params.items() if value not in (None, "", (), [])}
    given = {name: "true" if value is True else value for name, value in given.items()}
    url = ROOT_PATH.get() + path
    return f"{url}?{urlencode(given, doseq=True)}" if given else url


search_page = partial(make_url, SEARCH_PAGE)
collection_page = partial(make_url, COLLECTION_PAGE)
latent_page = partial(make_url, LATENT_PAGE)  # between images a and b
duplicates_page = partial(make_url, DUPLICATES_PAGE)
plan = partial(make_url, f"{API}/duplicates/plan")  # the cleanup plan, a file to download


def image(image_id: int) -> str:
    """Return the URL of an image's record."""
    return make_url(f"{API}/images/{image_id}")


def file(image_id: int) -> str:
    """Return the URL of an image's file."""
    return f"{image(image_id)}/file"


def thumbnail(image_id: int, side: int | None = None) -> str:
    """Return the URL of a thumbnail; `side`: maximum width and height in pixels."""
    return make_url(f"{API}/images/{image_id}/thumbnail", side=side)


def image_urls(image_id: int, has_reconstruction: bool = True) -> dict[str, str | None]:
    """Return the URL fields of a response about an image."""
    reconstruction = f"{image(image_id)}/reconstruction" if has_reconstruction else None
    return {
        "file_url": file(image_id),
        "thumbnail_url": f"{image(image_id)}/thumbnail",
        "reconstruction_url": reconstruction,
    }


def metadata(image_id: int) -> str:
    """Return the URL of an image's metadata."""
    return f"{image(image_id)}/metadata"


def image_page(image_id: int) -> str:
    """Return the URL of the page of one image."""
    return make_url(f"{IMAGE_PAGES}/{image_id}")


def similar_page(image_id: int) -> str:
    """Return the URL of the page with images similar to an image."""
    return search_page(image_id=image_id)


def job_urls(job_id: int) -> dict[str, str]:
    """Return the URL fields of a response about an indexing job."""
    url = make_url(f"{API}/jobs/{job_id}")
    return {"url": url} | {f"{name}_url": f"{url}/{name}" for name in ("events", "cancel", "failures")}


def difference(first: int, second: int, show: str | None = None) -> str:
    """Return the URL of the difference image of two images; show `overlay`: the second one aligned with the first."""
    return make_url(f"{API}/duplicates/difference", first=first, second=second, show=show)
