"""What the page shows: plain data for the template, made from the same answers as the API's."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from core.errors import SimileError
from core.settings import Settings
from models import drawing
from models.images import decode
from search.searcher import Answer, Searcher
from service import urls
from service.answers import data_url, image_out, search_out
from service.headers import PAGE_POLICY
from service.problems import Problem
from service.schemas import MAX_LIMIT, HitOut, ImageOut, QueryOut

HITS = 24  # fills rows of 2, 3, 4, 6 and 8
EXAMPLES = 12
PREVIEW_SIDE = 256
TINY = 48  # pixels: below this, smoothing would blur a picture to fog

_templates = Jinja2Templates(directory=Path(__file__).parent / "templates")
_templates.env.globals |= {"urls": urls, "version": version("simile")}
_templates.env.filters["file_name"] = lambda path: PurePath(path).name


@dataclass(frozen=True)
class View:
    """What there is to see. `preview`: address of the query picture; `more`: address of the same with more hits."""

    total: int = 0
    query: QueryOut | None = None
    preview: str = ""
    hits: Sequence[HitOut] = ()
    more: str | None = None
    examples: Sequence[ImageOut] = ()


def written_distance(value: float) -> str:
    """For people. NaN where two pictures were never compared, 0 only where nothing differs."""
    if math.isnan(value):
        return "unknown"
    return f"{value:.3g}" if value >= 0.001 or value == 0 else "below 0.001"


_templates.env.filters["distance"] = written_distance


def start(searcher: Searcher) -> View:
    """Nothing was searched yet: some indexed pictures to try."""
    total = searcher.count()
    return View(total=total, examples=_spread(searcher, total))


def by_id(searcher: Searcher, image_id: int, limit: int) -> View:
    """What is similar to an indexed image."""
    answer = searcher.by_id(image_id, limit=limit)
    total = searcher.count()
    reachable = min(total - 1, MAX_LIMIT)  # itself is left out
    more = urls.page_for(image_id, min(2 * limit, MAX_LIMIT)) if limit < reachable else None
    return _results(searcher, answer, total, urls.thumbnail(image_id), more)


def by_file(searcher: Searcher, data: bytes, name: str) -> View:
    """What is similar to an uploaded picture. It comes back in the page, small: nothing of it is kept."""
    answer = searcher.by_file(data, name=name, limit=HITS)
    small = drawing.thumbnail(decode(data, name=name, limits=searcher.limits, min_side=PREVIEW_SIDE))
    kind = "image/png" if small.startswith(b"\x89PNG") else "image/jpeg"
    return _results(searcher, answer, searcher.count(), data_url(small, kind), None)


def render(request: Request, view: View, problem: Problem | None = None) -> Response:
    """The page of searches, with what went wrong if something did."""
    return render_page(request, "page.html", view, problem)


def render_page(request: Request, template: str, view: object, problem: Problem | None = None) -> Response:
    """A page that shows the view, with what went wrong if something did."""
    settings: Settings = request.app.state.settings
    context: dict[str, Any] = {"view": view, "problem": problem, "tiny": TINY, "max_bytes": settings.max_bytes}
    context["home_option"] = _home_option(settings)
    response = _templates.TemplateResponse(request, template, context, problem.status if problem else 200)
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def start_or_nothing(searcher: Searcher | None) -> View:
    """For a page that says what went wrong, maybe with the home itself."""
    try:
        return start(searcher) if searcher else View()
    except SimileError:
        return View()


def _home_option(settings: Settings) -> str:
    """What the command line needs to mean this home."""
    usual = settings.home == Settings.model_fields["home"].default
    return "" if usual else f" --home {shlex.quote(str(settings.home))}"


def _results(searcher: Searcher, answer: Answer, total: int, preview: str, more: str | None) -> View:
    found = search_out(searcher, answer, with_reconstruction=True)
    return View(total=total, query=found.query, preview=preview, hits=found.hits, more=more)


def _spread(searcher: Searcher, total: int) -> list[ImageOut]:
    """Some images from all over the collection: neighbours in a folder are often alike."""
    wanted = min(EXAMPLES, total)
    found = [searcher.images(limit=1, offset=at * total // wanted) for at in range(wanted)]
    return [image_out(record) for page in found for record in page]
