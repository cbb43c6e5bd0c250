"""The service, put together."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import Depends, FastAPI
from starlette.staticfiles import StaticFiles

from core.settings import Settings
from service import openapi, problems, urls
from service.deps import Door, refuse_cross_site
from service.headers import SafeHeaders
from service.limits import FORM_OVERHEAD, BodyLimit, EncodingPool
from service.reviews import Reviews
from service.routes import duplicates, duplicates_page, health, images, page, search

ROUTERS = (search.router, images.router, duplicates.router, health.router, page.router, duplicates_page.router)
DESCRIPTION = "Finds similar images with a variational autoencoder, and shows what the model saw."


def create_app(settings: Settings, *, prepared: bool = False) -> FastAPI:
    """The app for one home. It starts without one too, and says so until `simile index` has made it.

    `prepared`: loads the encoder and its fast runtime as it starts, so that the first searches don't wait for them.
    """
    app = FastAPI(
        title="simile",
        version=version("simile"),
        description=DESCRIPTION,
        dependencies=[Depends(refuse_cross_site)],
        lifespan=_lifespan,
        redoc_url=None,
    )
    app.state.settings, app.state.prepared, app.state.reviews = settings, prepared, Reviews()
    for router in ROUTERS:
        app.include_router(router)
    app.mount(urls.STATIC, StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    app.add_middleware(BodyLimit, max_bytes=settings.max_bytes + FORM_OVERHEAD)
    app.add_middleware(SafeHeaders)
    problems.install(app)
    openapi.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.door = Door(app.state.settings)
    app.state.pool = EncodingPool(app.state.settings.workers)
    preparing = threading.Thread(target=app.state.door.prepare, name="prepare")
    if app.state.prepared:
        preparing.start()
    yield
    if app.state.prepared:
        preparing.join()  # a process that ends while a network is being converted is aborted
    app.state.door.close()
