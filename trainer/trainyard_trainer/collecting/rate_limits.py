"""How often one annotator, or one address with bad links, may ask: a bucket of tokens each, in this process's memory."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

REMEMBERED = 10_000


class RateLimit:
    """`per_minute` on average, half a minute's worth at once."""

    def __init__(self, per_minute: float, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60
        self._size = max(1.0, per_minute / 2)
        self._now = now
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, who: str) -> float:
        """0 if `who` may go on, and it is counted; else the seconds after which they may."""
        with self._lock:
            now = self._now()
            left, since = self._buckets.pop(who, (self._size, now))
            left = min(self._size, left + (now - since) * self._rate)
            allowed = left >= 1
            self._buckets[who] = (left - 1 if allowed else left, now)
            if len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
            return 0.0 if allowed else (1 - left) / self._rate
