"""Configure logging. All logs go to stderr, so that stdout holds only data."""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import Any, TextIO

MAX_QUEUED_LINES = 10_000
FLUSH_SECONDS = 2.0  # at the end of a process
_NOISY_LOGGERS = (
    "PIL",
    "faiss",
    "torch",
    "alembic",
    "httpx2",
    "httpcore2",
    "asyncio",
    "python_multipart",
    "watchfiles",
)


class _CurrentStderrHandler(logging.StreamHandler[TextIO]):
    """Write to the current `sys.stderr`: a progress bar replaces it to keep log lines apart from the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class QueuedStderrHandler(logging.Handler):
    """Write to stderr in a thread, so that a program that does not read it cannot stop the caller.

    While MAX_QUEUED_LINES wait, further lines are lost; the next line that is written says how many.
    """

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(MAX_QUEUED_LINES)
        self._lost_count = 0
        self._process_id = os.getpid()
        threading.Thread(target=self._write_lines, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format the record and queue its line."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  # as the handlers of logging: a bad message must not end a request
            self.handleError(record)
            return
        if os.getpid() != self._process_id:  # a forked process, without the thread
            self._write(line)
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost_count += 1  # under the handler's lock

    def flush(self) -> None:
        """Wait until all lines are written, at most FLUSH_SECONDS."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, FLUSH_SECONDS)

    def _write_lines(self) -> None:
        while True:
            self._write(self._lines.get())
            with self.lock or nullcontext():
                lost_count, self._lost_count = self._lost_count, 0
            if lost_count:
                text = "%d lines of the log were lost, because stderr was not read."
                record = logging.LogRecord(__name__, logging.WARNING, "", 0, text, (lost_count,), None)
                self._write(self.format(record))
            self._lines.task_done()

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        with suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]


# Control characters (C0, DEL, C1): line ends fake another line, ESC and BEL are commands for a terminal. And line ends
# of Unicode, and its commands that reverse the order of the text that follows.
_UNICODE_CONTROLS = (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROL_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: "\\n", 13: "\\r"}
_CONTROL_ESCAPES |= {code: f"\\u{code:04x}" for code in _UNICODE_CONTROLS}
_TRACEBACK_ESCAPES = {code: text for code, text in _CONTROL_ESCAPES.items() if code != 10}


# In JSON text they can only be in strings, and C0 is escaped already.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(127, 160), *_UNICODE_CONTROLS)}


def escape_controls(text: str) -> str:
    """Return the text as one line of visible characters: a name of a file may have any character but NUL and `/`."""
    return text.translate(_CONTROL_ESCAPES)


def escape_json_controls(text: str) -> str:
    """Return JSON of the same value without control characters."""
    return text.translate(_JSON_ESCAPES)


class SingleLineFormatter(logging.Formatter):
    """Format each message as one line of visible characters, because text from a client may be a part of it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # name of logging's method
        """Return the message with control characters escaped."""
        return escape_controls(super().formatMessage(record))

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


def configure_logging(verbose: bool = False, json_lines: bool = False, *, queued: bool = False) -> None:
    """Log to stderr. May be called again.

    Args:
        verbose: Log DEBUG and above instead of INFO and above.
        json_lines: Write one JSON object a line instead of text.
        queued: Write in a thread that may lose lines, for a service.
    """
    handler: logging.Handler = QueuedStderrHandler() if queued else _CurrentStderrHandler()
    text_formatter = SingleLineFormatter("%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLinesFormatter() if json_lines else text_formatter)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=json_lines or queued
    )
    for noisy in _NOISY_LOGGERS:
        logging.getLogger(noisy).setLevel(logging.WARNING)
