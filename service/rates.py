"""How often somebody may ask: token buckets, in bounded memory. Each process counts by itself."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

KEPT = 20_000  # buckets; beyond, the one that was used longest ago is forgotten, and so is full again


class Buckets:
    """A bucket for each name. It holds what a minute brings, and fills evenly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is in it, and when that was so

    def take(self, name: str, per_minute: float, cost: float = 1.0) -> float:
        """Takes `cost` out and gives 0; or takes nothing, and gives the seconds until there is enough."""
        level = self.level(name, per_minute)
        wait = max(0.0, (cost - level) * 60 / per_minute)
        self._levels[name] = (level if wait else level - cost), self._clock()
        self._levels.move_to_end(name)
        if len(self._levels) > KEPT:
            self._levels.popitem(last=False)
        return wait

    def level(self, name: str, per_minute: float) -> float:
        """What is in it now."""
        level, since = self._levels.get(name, (per_minute, 0.0))
        return min(per_minute, level + (self._clock() - since) * per_minute / 60)

    def __len__(self) -> int:
        return len(self._levels)
