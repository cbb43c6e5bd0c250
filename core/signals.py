"""Ctrl-C: the first one asks the job to finish what it has in hand, the second one ends it at once."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)


@contextmanager
def stop_on_interrupt(request_stop: Callable[[], None]) -> Iterator[threading.Event]:
    """Within the block the first Ctrl-C calls `stop` and sets the event; the next one is a KeyboardInterrupt.

    Only the main thread hears signals: elsewhere the event stays unset.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        asked.set()
        request_stop()
        log.warning("finishing the batch in hand; Ctrl-C again stops at once")

    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler
    signal.signal(signal.SIGINT, first)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
