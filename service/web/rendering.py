"""Rendering of pages: the templates, their globals and filters, and the pages of errors."""

from __future__ import annotations

import gzip
import math
import shlex
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from simile.core.errors import NothingIndexed, SimileError
from simile.core.records import PhotoMetadata
from simile.core.settings import Settings
from simile.images.formats import IMAGE_SUFFIXES
from simile.search.searcher import Searcher
from simile.service import urls
from simile.service.dependencies import get_searcher
from simile.service.errors import ProblemDetails, make_problem
from simile.service.middleware.headers import PAGE_POLICY
from simile.service.schemas.jobs import JobResponse, JobResultResponse
from simile.service.schemas.search import MAX_QUERY_IMAGES, HitResponse, ImageResponse
from simile.service.security.prices import get_price
from simile.service.state.batcher import EncodingPool

View = dict[str, Any]  # what a template shows, as `view`; without fields: the page of an empty home or of an error
Params = TypeVar("Params")

PAGE_ERRORS = (SimileError, HTTPException, RequestValidationError)

_STAGE_LABELS = {
    "looking": "Looking at the folder",
    "training": "Training",
    "indexing": "Indexing",
    "publishing": "Putting it in use",
}
_RESULT_LABELS = (
    ("new", "new"),
    ("changed", "changed"),
    ("moved", "moved"),
    ("removed", "forgotten"),
    ("missing", "whose files are gone"),
    ("unchanged", "unchanged"),
)


def describe_job(job: JobResponse) -> str:
    """Describe the state of a job in words; static/jobs.js does the same for a running job."""
    if job.status != "running":
        return _describe_result(job.result) if job.result else f"{job.done:,} files processed" if job.done else ""
    parts = [_STAGE_LABELS[job.stage]]
    if job.total:
        parts.append(f"{job.done:,} of {job.total:,}")
    elif job.done:
        parts.append(f"{job.done:,}")
    if job.per_second:
        parts.append(f"{job.per_second:,.0f} a second")
    return " · ".join(parts)


def _describe_result(result: JobResultResponse) -> str:
    counts = [(getattr(result, name), words) for name, words in _RESULT_LABELS]
    done = ", ".join(f"{count:,} {words}" for count, words in counts if count) or "no images found"
    return f"{done} · {_format_duration(result.seconds)}" if result.seconds >= 0.1 else done


def _format_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


MIN_GZIP_BYTES = 16_000  # bytes: smaller pages gain too little by compression
MAX_TINY_SIDE = 48  # pixels: smaller images are shown without smoothing

_NAVIGATION = (
    (urls.SEARCH_PAGE, "Search"),
    (urls.COLLECTION_PAGE, "Collection"),
    (urls.MAP_PAGE, "Map"),
    (urls.LATENT_PAGE, "Latent"),
    (urls.DUPLICATES_PAGE, "Duplicates"),
    (urls.QUALITY_PAGE, "Quality"),
    (urls.JOBS_PAGE, "Indexing"),
    (urls.DOCS, "API"),
)
_FILTER_FORMATS = (
    "jpeg", "png", "webp", "gif", "bmp", "tiff", "heif", "avif", "ppm", "jpeg2000", "ico", "qoi", "psd", "jxl", "raw"
)  # fmt: skip

_templates = Jinja2Templates(directory=Path(__file__).parents[1] / "templates")
_templates.env.globals |= {
    "urls": urls,
    "url": urls.make_url,
    "version": version("simile"),
    "formats": _FILTER_FORMATS,
    "accepted": ",".join(("image/*", *sorted(IMAGE_SUFFIXES))),  # for file inputs: browsers do not know all formats
    "max_files": MAX_QUERY_IMAGES,
}


def get_image_name(image: HitResponse | ImageResponse) -> str:
    """Return the name of an image: from its metadata (uploads), or its file's name."""
    name = (image.metadata or {}).get("name")
    return str(name or "") or PurePath(image.path).name or f"Image {image.image_id}"


def format_distance(value: float) -> str:
    """Format a distance. NaN: the images were never compared. 0: they are equal."""
    if math.isnan(value):
        return "unknown"
    return f"{value:.3g}" if value >= 0.001 or value == 0 else "below 0.001"


def format_measure(value: float | str, name: str) -> str:
    """Format the value of a measure of quality: sharpness 0.31. Texts and sizes, which a tile shows, have none."""
    return "" if isinstance(value, str) or name == "pixels" else f"{name.partition('_')[0]} {value:.3g}"


def format_bytes(value: int) -> str:
    """Format a size: 12 bytes, 3.4 kB, 56 MB."""
    if value < 1000:
        return f"{value} byte{'' if value == 1 else 's'}"
    power = min(int(math.log10(value)) // 3, 4)
    return f"{value / 1000**power:.3g} {'kMGT'[power - 1]}B"


def describe_photo(photo: PhotoMetadata) -> list[tuple[str, str]]:
    """Return the rows of a table about a photo: name and text."""
    rows = {
        "Title": photo.title,
        "Taken": _format_taken(photo),
        "Camera": photo.camera,
        "Lens": photo.lens,
        "Exposure": _format_exposure(photo),
        "Rating": None if photo.rating is None else _format_rating(photo.rating),
        "Keywords": ", ".join(photo.keywords),
        "Description": photo.description,
        "Copyright": photo.copyright,
        "Place": _format_position(photo),
    }
    return [(name, text) for name, text in rows.items() if text]


def _format_taken(photo: PhotoMetadata) -> str | None:
    """Format the local time: 6 May 2024, 07:08 (UTC+02:00)."""
    if photo.taken is None:
        return None
    text = f"{photo.taken.day} {photo.taken:%B} {photo.taken.year}, {photo.taken:%H:%M}"
    if photo.taken_offset is None:
        return text
    hours, minutes = divmod(abs(photo.taken_offset), 60)
    return f"{text} (UTC{'-' if photo.taken_offset < 0 else '+'}{hours:02}:{minutes:02})"


def _format_exposure(photo: PhotoMetadata) -> str:
    """Format what was set for the shot: 1/250 s, f/2.8, ISO 400, 50 mm."""
    time = photo.exposure_time
    is_fraction = time is not None and time < 0.3
    parts = [
        "" if time is None else f"1/{1 / time:.0f} s" if is_fraction else f"{time:g} s",
        "" if photo.aperture is None else f"f/{photo.aperture:.3g}",
        "" if photo.iso is None else f"ISO {photo.iso}",
        "" if photo.focal_length is None else f"{photo.focal_length:.4g} mm",
    ]
    return ", ".join(filter(None, parts))


def _format_rating(rating: int) -> str:
    """Format stars: ★★★☆☆."""
    return "rejected" if rating < 0 else "★" * rating + "☆" * (5 - rating)


def _format_position(photo: PhotoMetadata) -> str | None:
    """Format degrees: 52.50000° N, 13.40000° E."""
    if photo.latitude is None or photo.longitude is None:
        return None
    sides = ("N" if photo.latitude >= 0 else "S", "E" if photo.longitude >= 0 else "W")
    return f"{abs(photo.latitude):.5f}° {sides[0]}, {abs(photo.longitude):.5f}° {sides[1]}"


def format_one_in(rate: float) -> str:
    """Format a rate: 0.01 is "1 in 100"."""
    return f"1 in {round(1 / rate):,}" if 0 < rate <= 1 else "none"


def get_tiny_class(image: Any) -> str:
    """Return the class of a tiny image: it is shown without smoothing."""
    return " tiny" if max(image.width, image.height) <= MAX_TINY_SIDE else ""


_templates.env.filters |= {
    "called": get_image_name,
    "distance": format_distance,
    "bytes": format_bytes,
    "measure": format_measure,
    "one_in": format_one_in,
    "tiny": get_tiny_class,
    "job_words": describe_job,
    "photo_rows": describe_photo,
}


async def show_page(
    request: Request,
    template: str,
    parse: Callable[[QueryParams], Params],
    make_view: Callable[[Searcher, Params], View],
    *,
    pool: EncodingPool | None = None,
    explains_empty: bool = False,
) -> Response:
    """Show the page for the parameters in the URL; an error is shown on the page.

    Args:
        parse: Returns the parameters of `make_view`. They are parsed here, so that errors are pages, too.
        make_view: Runs in a thread of `pool`, None: in any thread.
        explains_empty: Whether a home without images is an error on this page.
    """
    try:
        params = parse(request.query_params)
        searcher = await get_searcher(request)
        run = run_in_threadpool if pool is None else pool.run
        with request.app.state.admission.hold(request.scope, get_price(request.scope)):
            return render_page(request, template, await run(lambda: make_view(searcher, params)))
    except PAGE_ERRORS as error:
        is_empty = isinstance(error, NothingIndexed) and not explains_empty
        return render_page(request, template, {}, None if is_empty else make_problem(error))


def render_page(
    request: Request, template: str, view: Mapping[str, Any], problem: ProblemDetails | None = None
) -> Response:
    """Render a page with its view, and the problem if there is one."""
    settings: Settings = request.app.state.settings
    visitor = getattr(request.state, "visitor", None)
    scope = "admin" if visitor is None else visitor.scope  # without keys, every client has all scopes
    context: dict[str, Any] = {
        "view": view,
        "problem": problem,
        "max_bytes": settings.max_bytes,
        "home_option": _make_home_option(settings),
        "here": request.url.path,
        "visitor": visitor,
        "places": [place for place in _NAVIGATION if place[0] != urls.JOBS_PAGE or scope != "search"],
        "may_write": scope in ("write", "admin"),
        "may_admin": scope == "admin",
    }
    response = _templates.TemplateResponse(request, template, context, problem.status if problem else 200)
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    response.headers["Cache-Control"] = "private, no-cache"
    if problem is not None:
        response.headers.update({name: value for name, value in problem.headers.items() if name != "Content-Length"})
    return _compress_response(request, response)


def _compress_response(request: Request, response: Response) -> Response:
    """Compress a response if the client accepts it: a page with 1,000 hits shrinks from 1.8 MB to a twentieth.

    Pages contain no secrets, and the session cookie is SameSite=Strict, so their size reveals nothing (BREACH).
    """
    response.headers["Vary"] = "Accept-Encoding"
    if len(response.body) >= MIN_GZIP_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        response.body = gzip.compress(response.body, 1, mtime=0)
        response.headers.update({"Content-Encoding": "gzip", "Content-Length": str(len(response.body))})
    return response


def _make_home_option(settings: Settings) -> str:
    """Return the command-line option that selects this home."""
    usual = settings.home == Settings.model_fields["home"].default
    return "" if usual else f" --home {shlex.quote(str(settings.home))}"
