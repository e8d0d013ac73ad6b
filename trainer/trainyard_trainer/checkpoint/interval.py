"""How often to save when `checkpoint.everySeconds` is `auto`: where what saving costs and what failures cost are in balance.

Young (1974), "A first order approximation to the optimum checkpoint interval": sqrt(2 × C × M), for saves that cost C seconds
of training each and failures that are M seconds apart. Daly (2006), "A higher order estimate of the optimum checkpoint
interval for restart dumps", adds terms for a C that is not small beside M. Here C is a stall of milliseconds and what the
steps beside a save are slower by; up to C = M / 20 Young's interval costs within 1 % of the best by Daly's whole model, which
a test holds it against. That a checkpoint is durable only some time later costs each interval the same, so it moves none.

Nothing is known before the first save, so that one comes early and is measured. Before the first failure M is a guess.
"""

from collections import deque
from math import sqrt
from statistics import fmean

from trainyard_api.checkpoint_settings import RANK_SECONDS_TO_FAILURE

FIRST_SECONDS = 30.0
LONGEST_SECONDS = 3_600.0
_STEPS, _SAVES = 50, 5
"""How many of the last ones a mean is taken over."""


def best_interval(cost: float, durable: float, between_failures: float) -> float:
    """Seconds from one save to the next: Young's, an hour at most, but never faster than storage takes them."""
    return max(durable, min(LONGEST_SECONDS, sqrt(2 * cost * between_failures)))


def between_failures(failures: int, seconds: float, ranks: int) -> float:
    """Mean seconds from one failure to the next of a run that had so many in so many seconds."""
    return seconds / failures if failures else max(seconds, RANK_SECONDS_TO_FAILURE / ranks)


class Cost:
    """What a save costs training in this attempt: the stall, and what the steps beside it took longer than others."""

    def __init__(self) -> None:
        self._others: deque[float] = deque(maxlen=_STEPS)
        self._beside: list[float] = []
        self._costs: deque[float] = deque(maxlen=_SAVES)
        self._warm = False

    def step(self, seconds: float, *, beside_a_save: bool) -> None:
        """A step has taken so long, stalls left out. The attempt's first one, which warms up, says nothing."""
        if not self._warm:
            self._warm = True
        elif beside_a_save:
            self._beside.append(seconds)
        else:
            self._others.append(seconds)

    def saved(self, stall: float) -> float:
        """A save that has stalled training for so long is over. Returns the mean cost of the last saves."""
        slower = sum(self._beside) - len(self._beside) * fmean(self._others) if self._others else 0.0
        self._costs.append(stall + max(0.0, slower))
        self._beside.clear()
        return fmean(self._costs)
