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

from simile.core.hosts import parse_networks, parse_origins
from simile.core.settings import Settings
from simile.service import errors, urls
from simile.service.api import attributes, duplicates, encoders, health, images, jobs, latents, map, status
from simile.service.api import search as api_search
from simile.service.middleware.headers import CORS_OPTIONS, SecurityHeadersMiddleware
from simile.service.middleware.limits import FORM_OVERHEAD, BodyLimitMiddleware, UploadLimiter, UploadLimitMiddleware
from simile.service.middleware.request_log import RequestLogMiddleware
from simile.service.observability.metrics import ServiceMetrics
from simile.service.openapi import install
from simile.service.security import scopes
from simile.service.security.api_keys import Authenticator
from simile.service.security.authorization import AccessControlMiddleware, RateLimiter
from simile.service.state.batcher import SearchBatcher
from simile.service.state.encoding_pool import EncodingPool
from simile.service.state.job_events import JobEventBroker
from simile.service.state.job_manager import JobManager
from simile.service.state.latent_cache import LatentCache
from simile.service.state.map_cache import MapCache
from simile.service.state.readiness import Readiness
from simile.service.state.review_cache import ReviewCache
from simile.service.state.searcher_provider import SearcherProvider
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
    health.metrics_router,
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


def create_app(settings: Settings, *, preload: bool = False) -> FastAPI:
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
    app.state.settings, app.state.preload, app.state.review_cache = settings, preload, ReviewCache()
    app.state.map_cache = MapCache(settings)
    app.state.authenticator, app.state.rate_limiter = Authenticator(settings), RateLimiter()
    figures, house = ServiceMetrics(), UploadLimiter(settings.queue, settings.queue_share)
    app.state.metrics, app.state.upload_limiter = figures, house
    for router in ROUTERS:
        app.include_router(router)
    app.mount(urls.STATIC, StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    # The last that is added is the first to see a request.
    app.add_middleware(BodyLimitMiddleware, settings.max_bytes + FORM_OVERHEAD, settings.upload_seconds, figures)
    app.add_middleware(UploadLimitMiddleware, house, figures, parse_networks(settings.trusted_proxies))
    app.add_middleware(
        AccessControlMiddleware,
        settings=settings,
        authenticator=app.state.authenticator,
        rate_limiter=app.state.rate_limiter,
    )
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **CORS_OPTIONS, allow_origins=parse_origins(settings.cors_origins))
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(RequestLogMiddleware, figures, house)
    app.state.drain = lambda: _drain(app)
    errors.install_error_handlers(app)
    install.install_openapi(app)
    scopes.check_routes(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state, settings = app.state, app.state.settings
    state.searcher_provider = SearcherProvider(settings, state.metrics.observe_stage, background=state.preload)
    state.pool = EncodingPool(settings.workers, settings.answer_seconds)
    state.batcher = SearchBatcher(
        settings,
        lambda questions: state.searcher_provider.get_searcher().search_many(questions),
        state.pool,
        state.metrics,
    )
    state.job_manager = JobManager(settings)
    state.latent_cache = LatentCache()
    state.event_broker = JobEventBroker(state.job_manager)
    state.readiness = Readiness(state.searcher_provider, state.upload_limiter, state.metrics)
    watching = threading.Thread(target=state.readiness.watch, name="facts")
    if state.preload:
        watching.start()
    else:
        state.readiness.loaded_event.set()
    yield
    state.readiness.stop_event.set()
    if state.preload:
        watching.join()  # a process that ends while a network is being converted is aborted
    await run_in_threadpool(state.job_manager.close)
    await run_in_threadpool(state.latent_cache.close)
    await run_in_threadpool(state.map_cache.close)
    await run_in_threadpool(state.batcher.close)
    state.searcher_provider.close()
    state.authenticator.close()


def _drain(app: FastAPI) -> None:
    """No more pictures are taken in, and streams without an end get one: the process is about to stop."""
    app.state.upload_limiter.is_draining = True
    app.state.job_manager.drain()
