"""Configure logging. All logs go to stderr, so that stdout holds only data."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

_NOISY_LOGGERS = ("PIL", "faiss", "torch", "alembic", "httpx2", "httpcore2", "asyncio", "python_multipart")


class _CurrentStderrHandler(logging.StreamHandler[TextIO]):
    """Write to the current `sys.stderr`: a progress bar replaces it to keep log lines apart from the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


# Control characters (C0, DEL, C1): line ends fake another log line, ESC and BEL are commands for a terminal.
_CONTROL_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n", 13: "\\r"}
_TRACEBACK_ESCAPES = {code: text for code, text in _CONTROL_ESCAPES.items() if code != 10}


class SingleLineFormatter(logging.Formatter):
    """Format each message as one line of visible characters, because text from a client may be a part of it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # name of logging's method
        """Return the message with control characters escaped."""
        return super().formatMessage(record).translate(_CONTROL_ESCAPES)

    def formatException(self, ei: Any) -> str:  # noqa: N802  # name of logging's method
        """Return the traceback with control characters other than line ends escaped."""
        return super().formatException(ei).translate(_TRACEBACK_ESCAPES)


class JsonLinesFormatter(logging.Formatter):
    """Format each record as one line of JSON: time, level, logger, message, and the record's extra `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
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
    """Log to stderr. May be called again.

    Args:
        verbose: Log DEBUG and above instead of INFO and above.
        json_lines: Write one JSON object a line instead of text.
    """
    handler = _CurrentStderrHandler()
    text_formatter = SingleLineFormatter("%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLinesFormatter() if json_lines else text_formatter)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=json_lines)
    for noisy in _NOISY_LOGGERS:
        logging.getLogger(noisy).setLevel(logging.WARNING)
