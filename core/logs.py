"""Logging goes to stderr, so that stdout carries data alone."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_NOISY_LOGGERS = ("PIL", "faiss", "torch", "alembic", "httpx2", "httpcore2", "asyncio", "python_multipart")


class _CurrentStderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at that moment: a progress bar puts itself there to keep lines apart."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class SingleLineFormatter(logging.Formatter):
    """Text in one line: what a client sent may hold line ends, and must not look like a line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")


class JsonLinesFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields that came with the record."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=True, default=str)


def configure_logging(verbose: bool = False, json_lines: bool = False) -> None:
    """Log to stderr: INFO and above, DEBUG with `verbose`; `as_json`: an object a line. May be called again."""
    handler = _CurrentStderrHandler()
    handler.setFormatter(
        JsonLinesFormatter() if json_lines else SingleLineFormatter("%(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=json_lines)
    for noisy in _NOISY_LOGGERS:
        logging.getLogger(noisy).setLevel(logging.WARNING)
