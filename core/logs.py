"""Logging goes to stderr, so that stdout carries data alone."""

from __future__ import annotations

import logging
import sys
from typing import TextIO


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at that moment: a progress bar puts itself there to keep lines apart."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_up(verbose: bool = False) -> None:
    """Log to stderr: INFO and above, DEBUG with `verbose`."""
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, handlers=[_CurrentStderr()], format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("PIL", "faiss", "torch", "alembic", "httpx2", "httpcore2", "asyncio", "python_multipart"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
