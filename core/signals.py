"""Handle Ctrl-C: the first lets a job finish its current batch, the second ends it at once."""

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
    """Catch the first Ctrl-C within the block; the next one raises KeyboardInterrupt as usual.

    Only the main thread receives signals: in other threads nothing is caught.

    Args:
        request_stop: Called at the first Ctrl-C.

    Yields:
        An event that is set at the first Ctrl-C.
    """
    stop_requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop_requested
        return

    def handle_first_interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous_handler)
        stop_requested.set()
        request_stop()
        log.warning("finishing the current batch; press Ctrl-C again to stop at once")

    previous_handler = signal.getsignal(signal.SIGINT) or signal.default_int_handler
    signal.signal(signal.SIGINT, handle_first_interrupt)
    try:
        yield stop_requested
    finally:
        signal.signal(signal.SIGINT, previous_handler)
