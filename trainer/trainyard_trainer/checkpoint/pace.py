"""When a save by the clock is due: every so many seconds as the user says, or (`auto`) as `interval` finds best from what
saves have cost so far. That is their stall, and what the steps beside them took longer; time that belongs to no step
(waiting for a snapshot, taking turns, validating) is left out of the steps'.
"""

import time

from trainyard_api.checkpoint_settings import CheckpointSettings

from ..group import Group
from .interval import FIRST_SECONDS, Cost, best_interval, between_failures


class Pace:
    """The clock of one attempt's saves."""

    def __init__(self, settings: CheckpointSettings, group: Group) -> None:
        self._auto = settings.every_seconds == "auto"
        self._every = FIRST_SECONDS if settings.every_seconds == "auto" else settings.every_seconds
        """Seconds from one save to the next."""
        self._group = group
        self._cost = Cost()
        self._due_since = self._began = self._step_began = self._left_out_until = time.monotonic()

    @property
    def chosen(self) -> float | None:
        """The interval, in seconds, if it is `auto`."""
        return self._every if self._auto else None

    def step(self, *, beside_a_save: bool) -> None:
        """A step is over."""
        now = time.monotonic()
        self._cost.step(now - self._step_began, beside_a_save=beside_a_save)
        self._step_began = now

    def leave_out(self, since: float | None = None) -> None:
        """The time since then belongs to no step; without `since`, all since the last such call."""
        now = time.monotonic()
        self._step_began += now - (since or self._left_out_until)
        self._left_out_until = now

    def is_due(self) -> bool:
        """Whether a save is."""
        return self._every is not None and time.monotonic() >= self._due_since + self._every

    def begin(self) -> None:
        """One is due now, whether it can begin or not: the next one is due an interval later."""
        self._due_since = time.monotonic()

    def saved(self, stall: float, durable: float) -> None:
        """One is over, which stalled training for so many seconds and was durable after so many: choose the interval."""
        cost = self._cost.saved(stall)
        if self._auto:
            job = self._group.job
            seconds = job.recovered_seconds + time.monotonic() - self._began
            apart = between_failures(job.recoveries, seconds, self._group.world_size)
            self._every = best_interval(cost, durable, apart)
