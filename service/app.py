"""Create the FastAPI app of the service."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from simile.core.errors import BadSetting
from simile.core.hosts import parse_networks, parse_origins
from simile.core.settings import Settings
from simile.images.loading.worker_pool import get_worker_count
from simile.service import errors, urls
from simile.service.api import attributes, duplicates, facets, images, jobs, latents, map, quality, status, words
from simile.service.api import search as api_search
from simile.service.middleware.headers import CORS_OPTIONS, HeadRequestMiddleware, SecurityHeadersMiddleware
from simile.service.middleware.limits import (
    FORM_OVERHEAD,
    Admission,
    BodyLimitMiddleware,
    UploadLimiter,
    UploadLimitMiddleware,
)
from simile.service.middleware.request_log import RequestLogMiddleware
from simile.service.middleware.root_path import RootPathMiddleware
from simile.service.observability.metrics import ServiceMetrics
from simile.service.openapi import install
from simile.service.security import scopes
from simile.service.security.api_keys import Authenticator
from simile.service.security.authorization import AccessControlMiddleware, RateLimiter
from simile.service.state.batcher import ComputePool, EncodingPool, SearchBatcher
from simile.service.state.job_manager import JobEventBroker, JobManager
from simile.service.state.latent_cache import LatentCache
from simile.service.state.map_cache import MapCache
from simile.service.state.readiness import Readiness, SearcherProvider
from simile.service.state.review_cache import ReviewCache
from simile.service.web import collection, latent, login, reference, search
from simile.service.web import duplicates as web_duplicates
from simile.service.web import jobs as web_jobs
from simile.service.web import map as web_map
from simile.service.web import quality as web_quality

if TYPE_CHECKING:
    from simile.service.mcp.server import McpEndpoint

_API_MODULES = (api_search, facets, words, latents, attributes, images, quality, duplicates, status, jobs, map)
_PAGE_MODULES = (search, reference, collection, web_duplicates, web_quality, web_jobs, web_map, latent, login)
ROUTERS = (
    *(module.router for module in _API_MODULES),
    *(status.encoders_router, status.health_router, status.metrics_router),
    *(module.router for module in _PAGE_MODULES),
)
DESCRIPTION = "Finds similar images with a variational autoencoder, and shows reconstructions by the model."


def create_app(settings: Settings, *, preload: bool = False) -> FastAPI:
    """Create the app for one home, which need not exist yet; `preload`: load the encoder and its runtime at startup."""
    app = FastAPI(
        title="simile",
        version=version("simile"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        responses=install.document_errors(400, 414, 431),  # before the path is looked at
        docs_url=None,  # FastAPI's page loads scripts from a CDN; web/reference.py replaces it
        redoc_url=None,
    )
    state, metrics = app.state, ServiceMetrics()
    state.settings, state.preload, state.metrics = settings, preload, metrics
    state.review_cache, state.map_cache = ReviewCache(), MapCache(settings)
    state.authenticator, state.rate_limiter = Authenticator(settings), RateLimiter()
    spool_bytes = shutil.disk_usage(tempfile.gettempdir()).free
    max_body = settings.max_bytes + FORM_OVERHEAD
    state.upload_limiter = UploadLimiter(settings.queue, settings.queue_share, spool_bytes, max_body)
    state.admission = Admission(state.upload_limiter, metrics, parse_networks(settings.trusted_proxies))
    for router in ROUTERS:
        app.include_router(router)
    state.mcp_endpoint = _add_mcp_route(app) if settings.mcp else None
    app.mount(urls.STATIC, StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    # The middleware added last handles a request first.
    app.add_middleware(BodyLimitMiddleware, max_body, settings.upload_seconds, metrics)
    app.add_middleware(UploadLimitMiddleware, state.admission, settings.upload_cpu_seconds)
    app.add_middleware(
        AccessControlMiddleware, settings=settings, authenticator=state.authenticator, rate_limiter=state.rate_limiter
    )
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **CORS_OPTIONS, allow_origins=parse_origins(settings.cors_origins))
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(HeadRequestMiddleware)
    app.add_middleware(RequestLogMiddleware, metrics, state.upload_limiter)
    if settings.root_path:
        scopes.check_root_path(settings.root_path)
        app.add_middleware(RootPathMiddleware, settings.root_path)
    state.drain = lambda: _drain(app)
    errors.install_error_handlers(app)
    install.install_openapi(app)
    scopes.check_routes(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Create the parts that need a running event loop, and close all parts at the end."""
    state, settings = app.state, app.state.settings
    state.searcher_provider = SearcherProvider(settings, state.metrics.observe_stage, background=state.preload)
    threads = get_worker_count(settings.workers)
    state.pool = EncodingPool(threads, settings.answer_seconds)
    state.compute_pool = ComputePool(max(1, threads // 2), settings.answer_seconds)
    state.batcher = SearchBatcher(
        settings, lambda queries: state.searcher_provider.get_searcher().search_many(queries), state.pool, state.metrics
    )
    state.job_manager = JobManager(settings)
    state.latent_cache = LatentCache()
    state.event_broker = JobEventBroker(state.job_manager)
    state.readiness = Readiness(
        searcher_provider=state.searcher_provider, upload_limiter=state.upload_limiter, metrics=state.metrics
    )
    watch_thread = threading.Thread(target=state.readiness.watch, name="readiness")
    if state.preload:
        watch_thread.start()
    else:
        state.readiness.loaded_event.set()
    async with AsyncExitStack() as stack:
        if state.mcp_endpoint is not None:
            await stack.enter_async_context(state.mcp_endpoint.run())
        yield
    state.readiness.stop_event.set()
    if state.preload:
        watch_thread.join()  # a process that exits while it converts a network would crash
    for closable in (state.job_manager, state.latent_cache, state.map_cache, state.batcher):
        await run_in_threadpool(closable.close)
    state.searcher_provider.close()
    state.authenticator.close()


def _add_mcp_route(app: FastAPI) -> McpEndpoint:
    try:
        from simile.service.mcp.server import add_mcp_route  # an optional package  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise BadSetting(
            f"SIMILE_MCP needs {error.name}, which is not installed. Run `pip install 'simile[mcp]'`, or leave out "
            "SIMILE_MCP."
        ) from error
    return add_mcp_route(app)


def _drain(app: FastAPI) -> None:
    """Reject new uploads and end event streams, because the process is about to stop."""
    app.state.upload_limiter.is_draining = True
    app.state.job_manager.drain()
