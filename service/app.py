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

from core.origins import read_networks, read_origins
from core.settings import Settings
from service import openapi, problems, scopes, urls
from service.access import Access
from service.batching import Desk
from service.door import Door
from service.facts import Facts
from service.headers import OTHER_SITES, SafeHeaders
from service.job_events import JobEvents
from service.jobs import Jobs
from service.keyring import Keyring
from service.latents import Latents
from service.limits import FORM_OVERHEAD, Admission, BodyLimit, EncodingPool, House
from service.maps import Maps
from service.metrics import Metrics
from service.rates import Buckets
from service.request_logs import Requests
from service.reviews import Reviews
from service.routes import (
    attributes,
    collection_page,
    duplicates,
    duplicates_page,
    encoders,
    health,
    images,
    jobs,
    jobs_page,
    latent_page,
    latents,
    map,
    map_page,
    metrics,
    page,
    reference_page,
    search,
    signin,
    status,
)

ROUTERS = (
    search.router,
    latents.router,
    attributes.router,
    images.router,
    duplicates.router,
    encoders.router,
    status.router,
    jobs.router,
    map.router,
    health.router,
    metrics.router,
    page.router,
    reference_page.router,
    collection_page.router,
    duplicates_page.router,
    jobs_page.router,
    map_page.router,
    latent_page.router,
    signin.router,
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
    problems.install(app)
    openapi.install(app)
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
