"""Call a function once in a process of its own, with limits on time and memory: for a file that may harm its reader."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar, cast

from simile.images.loading.fork_server import WorkBatch, WorkCost, WorkerLost
from simile.images.loading.process import ForkServer

Item = TypeVar("Item")
Result = TypeVar("Result")


def call_isolated(function: Callable[[Item], Result], item: Item, cost: WorkCost) -> Result | WorkerLost:
    """Return what the function returns, or WorkerLost with the reason if its process ended before.

    The function, or that of a partial, can be imported. Raises WorkersFailed.
    """
    with closing(ForkServer()) as server:
        worker = server.start_worker()
        try:
            worker.send_batch(WorkBatch(number=1, task=pickle.dumps(function), items=[item], cost=cost))
            (result,), _ = worker.receive_results(cost.seconds)
            return cast(Result, result)
        except (EOFError, OSError, pickle.UnpicklingError):
            return WorkerLost(_get_reason(server.end_worker(worker), cost))
        finally:
            worker.close()


def _get_reason(status: int, cost: WorkCost) -> str:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in (0, signal.SIGALRM, signal.SIGPROF):
        return f"it took more than {cost.seconds:g} seconds"
    return f"its process ended ({signal.Signals(number).name}); it may use {cost.memory / 1e9:.3g} GB of memory"
