"""`simile serve`, `simile mcp` and `simile demo`: serve people, programs and agents."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from simile.cli import options, output
from simile.cli.progress import RESUME_HINT, ProgressReporter
from simile.core.errors import BadSetting
from simile.core.logs import configure_logging

if TYPE_CHECKING:
    from simile.core.settings import Settings

LISTEN_BACKLOG = 1024  # connections that may wait to be accepted; the kernel refuses more


def serve(
    home: options.HomeOption = None,
    host: Annotated[str | None, Option(help="Address to listen on. [env: SIMILE_HOST; default: 127.0.0.1]")] = None,
    port: Annotated[int | None, Option(help="Port to listen on. [env: SIMILE_PORT; default: 8000]")] = None,
    workers: Annotated[
        int | None, Option(help="Number of worker processes. [env: SIMILE_SERVE_WORKERS; default: 1]")
    ] = None,
    metrics_port: Annotated[
        int | None, Option(help="Port on 127.0.0.1 for /metrics, without a key. [env: SIMILE_METRICS_PORT]")
    ] = None,
    root_path: Annotated[
        str | None, Option(help="Path prefix of the proxy in front of it, such as /photos. [env: SIMILE_ROOT_PATH]")
    ] = None,
    insecure: Annotated[
        bool | None,
        Option(
            "--insecure/--no-insecure", help="Serve other machines without keys. [env: SIMILE_INSECURE; default: no]"
        ),
    ] = None,
    device: options.DeviceOption = None,
    verbose: options.VerboseOption = False,
) -> None:
    """Serve the search page at / and the API at /v1 (documented at /docs)."""
    from simile.core.settings import load_settings

    given = {"home": home, "host": host, "port": port, "device": device, "insecure": insecure}
    settings = load_settings(**given, serve_workers=workers, metrics_port=metrics_port, root_path=root_path)
    _run_server(settings, verbose)


def serve_mcp(
    home: options.HomeOption = None,
    root: Annotated[
        list[Path] | None,
        Option(help="Folder of image files that an agent may search by; can be repeated. SIMILE_ROOTS counts, too."),
    ] = None,
    device: options.DeviceOption = None,
    verbose: options.VerboseOption = False,
) -> None:
    """Serve an agent over stdin and stdout, by the Model Context Protocol (MCP); its tools only read."""
    try:
        from simile.service.mcp.server import serve_stdio
    except ModuleNotFoundError as error:
        raise BadSetting(
            f"simile mcp needs {error.name}, which is not installed. Run `pip install 'simile[mcp]'`."
        ) from error
    from simile.core.settings import load_settings
    from simile.service.app import create_app

    settings, folders = load_settings(home=home, device=device), root or []
    for folder in folders:
        if not folder.is_dir():
            raise BadSetting(f"--root {folder} is not a folder. Name a folder of image files.")
    configure_logging(verbose, settings.log == "json", queued=True)
    asyncio.run(serve_stdio(create_app(settings, preload=True), folders))


def run_demo_command(
    home: Annotated[Path, Option("--home", help="Folder for the images and the index of the demo.")] = Path(
        "simile-demo"
    ),
    dataset: Annotated[
        str, Option(help="digits (included in scikit-learn), or fashion-mnist, mnist or cifar10 (downloaded).")
    ] = "digits",
    images: Annotated[Path | None, Option("--images", help="Your own image folder instead of a dataset.")] = None,
    minutes: Annotated[
        float | None, Option(min=0.01, max=options.MAX_DURATION, help="Train an encoder for so long. [default: none]")
    ] = None,
    host: Annotated[str | None, Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, Option(help="Port to listen on. [default: 8000]")] = None,
    listen: Annotated[bool, Option("--serve/--no-serve", help="Serve the search page afterwards.")] = True,
    device: options.DeviceOption = None,
    verbose: options.VerboseOption = False,
) -> None:
    """Try simile: write images, index them, search by three of them, serve the search page."""
    from simile.core.settings import load_settings
    from simile.indexer.demo import run_demo

    settings = load_settings(home=home, host=host, port=port, device=device)
    if listen:
        from simile.service.server.server import check_binding

        check_binding(settings)  # before the long training
    with ProgressReporter(RESUME_HINT) as reporter:
        sheet, summary = run_demo(settings, dataset, images, minutes, reporter.on_training, reporter.on_indexing)
    output.write(*output.format_summary(summary, dry_run=False))
    output.write(f"three searches: {sheet}")
    if listen:
        _run_server(settings, verbose)


def _run_server(settings: Settings, verbose: bool) -> None:
    # Until the server has its own handler: the first process of a container ignores signals without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from simile.service.server import server

    server.check_binding(settings)
    configure_logging(verbose, settings.log == "json", queued=True)
    listener = _bind_socket(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    output.note(
        f"simile is running at http://{host}:{listener.getsockname()[1]}{settings.root_path or ''}  (Ctrl-C stops it)"
    )
    if not settings.insecure and not server.has_keys(settings):
        output.note(
            "Without keys it is open to all programs on this machine, so also to a proxy and to all its clients. "
            "Before you put a proxy in front of it: simile keys create NAME"
        )
    if settings.serve_workers > 1:
        from simile.service.server.supervisor import supervise

        supervise(settings, listener, verbose)
    else:
        server.serve(settings, listener)


def _bind_socket(host: str, port: int) -> socket.socket:
    """Bind a listening socket; port 0 chooses a free port. Raises BadSetting."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=LISTEN_BACKLOG)
    except OSError as error:
        raise BadSetting(
            f"Can't listen on {host} port {port}: {error.strerror or error}. Choose another --port."
        ) from None
