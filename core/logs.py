"""Logging goes to stderr, so that stdout carries data alone."""

from __future__ import annotations

import logging
import sys


def set_up(verbose: bool = False) -> None:
    """Log to stderr: INFO and above, DEBUG with `verbose`."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
    )
    for noisy in ("PIL", "faiss", "alembic", "httpx2", "httpcore2", "asyncio", "python_multipart"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
