"""The service, put together."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from simile.core.hosts import read_networks, read_origins
from simile.core.settings import Settings
from simile.service import errors, urls
from simile.service.api import attributes, duplicates, encoders, health, images, jobs, latents, map, status
from simile.service.api import health as api_health
from simile.service.api import search as api_search
from simile.service.middleware.headers import OTHER_SITES, SafeHeaders
from simile.service.middleware.limits import FORM_OVERHEAD, Admission, BodyLimit, House
from simile.service.middleware.request_log import Requests
from simile.service.observability.metrics import Metrics
from simile.service.openapi import install
from simile.service.security import scopes
from simile.service.security.api_keys import Keyring
from simile.service.security.authorization import Access, Buckets
from simile.service.state.batcher import Desk
from simile.service.state.encoding_pool import EncodingPool
from simile.service.state.job_events import JobEvents
from simile.service.state.job_manager import Jobs
from simile.service.state.latent_cache import Latents
from simile.service.state.map_cache import Maps
from simile.service.state.readiness import Facts
from simile.service.state.review_cache import Reviews
from simile.service.state.searcher_provider import Door
from simile.service.web import collection, latent, login, reference, search
from simile.service.web import duplicates as web_duplicates
from simile.service.web import jobs as web_jobs
from simile.service.web import map as web_map

ROUTERS = (
    api_search.router,
    latents.router,
    attributes.router,
    images.router,
    duplicates.router,
    encoders.router,
    status.router,
    jobs.router,
    map.router,
    health.router,
    api_health.router,
    search.router,
    reference.router,
    collection.router,
    web_duplicates.router,
    web_jobs.router,
    web_map.router,
    latent.router,
    login.router,
)
DESCRIPTION = "Finds similar images with a variational autoencoder, and shows what the model saw."


def create_app(settings: Settings, *, prepared: bool = False) -> FastAPI:
    """The app for one home. It starts without one too, and says so until `simile index` has made it.

    `prepared`: loads the encoder and its fast runtime as it starts, so that the first searches don't wait for them.
    """
    app = FastAPI(
        title="simile",
        version=version("simile"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # its viewer would come from elsewhere: routes/reference_page.py has our own
        redoc_url=None,
    )
    app.state.settings, app.state.prepared, app.state.reviews = settings, prepared, Reviews()
    app.state.maps = Maps(settings)
    app.state.keyring, app.state.buckets = Keyring(settings), Buckets()
    figures, house = Metrics(), House(settings.queue, settings.queue_share)
    app.state.metrics, app.state.house = figures, house
    for router in ROUTERS:
        app.include_router(router)
    app.mount(urls.STATIC, StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    # The last that is added is the first to see a request.
    app.add_middleware(BodyLimit, settings.max_bytes + FORM_OVERHEAD, settings.upload_seconds, figures)
    app.add_middleware(Admission, house, figures, read_networks(settings.trusted_proxies))
    app.add_middleware(Access, settings=settings, keyring=app.state.keyring, buckets=app.state.buckets)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **OTHER_SITES, allow_origins=read_origins(settings.cors_origins))
    app.add_middleware(SafeHeaders)
    app.add_middleware(Requests, figures, house)
    app.state.drain = lambda: _drain(app)
    errors.install(app)
    install.install(app)
    scopes.check(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state, settings = app.state, app.state.settings
    state.door = Door(settings, state.metrics.observe, background=state.prepared)
    state.pool = EncodingPool(settings.workers, settings.answer_seconds)
    state.desk = Desk(settings, lambda questions: state.door.open().answer(questions), state.pool, state.metrics)
    state.jobs = Jobs(settings)
    state.latents = Latents()
    state.job_events = JobEvents(state.jobs)
    state.facts = Facts(state.door, state.house, state.metrics)
    watching = threading.Thread(target=state.facts.watch, name="facts")
    if state.prepared:
        watching.start()
    else:
        state.facts.prepared.set()
    yield
    state.facts.ended.set()
    if state.prepared:
        watching.join()  # a process that ends while a network is being converted is aborted
    await run_in_threadpool(state.jobs.close)
    await run_in_threadpool(state.latents.close)
    await run_in_threadpool(state.maps.close)
    await run_in_threadpool(state.desk.close)
    state.door.close()
    state.keyring.close()


def _drain(app: FastAPI) -> None:
    """No more pictures are taken in, and streams without an end get one: the process is about to stop."""
    app.state.house.draining = True
    app.state.jobs.drain()
