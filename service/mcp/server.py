"""The MCP server (Model Context Protocol, for agents), over stdio and as a route of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from simile.core.hosts import parse_roots
from simile.core.settings import Settings
from simile.service import urls
from simile.service.mcp.tools import ImageTools
from simile.service.middleware.limits import FORM_OVERHEAD

MAX_CALL_BYTES = 16 << 20  # a call is JSON, which is read in memory: an image of 12 MiB as base64
_INSTRUCTIONS = (
    "A collection of images that is searched by similarity. Begin with get_status, and count_facets for the metadata "
    "that `where` can name. Results name images by `image_id`; get_thumbnail shows one. All tools only read."
)


class McpEndpoint:
    """ASGI application of the route; `run` starts it inside the lifespan of the app.

    Each request is answered by itself, without a session, so that any of several server processes can answer it. Keys,
    hosts, origins and rates are checked by the middleware of the app.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Answer requests inside the block."""
        settings: Settings = self._app.state.settings
        server = create_mcp_server(self._app)
        server.streamable_http_app(
            json_response=True,
            stateless_http=True,
            max_request_body_size=min(settings.max_bytes + FORM_OVERHEAD, MAX_CALL_BYTES),
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        self._sessions = server.session_manager
        async with self._sessions.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._sessions.handle_request(scope, receive, send)


def create_mcp_server(app: FastAPI, folders: Sequence[Path] = ()) -> MCPServer[None]:
    """Create the server; `folders`: those that `image_path` may name besides those of SIMILE_ROOTS."""
    roots = [root for root in parse_roots(app.state.settings.roots).values() if not str(root).startswith("s3:")]
    tools = ImageTools(app, [*folders, *roots]).make_tools()
    return MCPServer("simile", version=version("simile"), instructions=_INSTRUCTIONS, tools=tools, log_level="WARNING")


def add_mcp_route(app: FastAPI) -> McpEndpoint:
    """Add the route for agents to the app."""
    endpoint = McpEndpoint(app)
    app.router.routes.append(Route(urls.MCP, endpoint, methods=["POST"]))
    return endpoint


async def serve_stdio(app: FastAPI, folders: Sequence[Path]) -> None:
    """Serve the client that started this process, until it closes stdin. Stdout has only the protocol."""
    async with app.router.lifespan_context(app):
        await create_mcp_server(app, folders).run_stdio_async()
