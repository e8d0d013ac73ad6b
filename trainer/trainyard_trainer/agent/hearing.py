"""Who of the group has fallen silent: how a lost node is noticed within 10 s, where Kubernetes takes 50 s to say so.

Agents tell agent 0 that they live every 2 s (peers.py), and it answers: agent 0 expects all others, the others agent 0. A
node takes several workers with it, whose last words are up to a beat apart: they are called silent together.
"""

import asyncio
from collections.abc import Callable, Iterable

from trainyard_api.protocol import HEARTBEAT_SECONDS, SILENT_SECONDS

from .attempt import now
from .board import Board
from .events import log

LOOK_SECONDS = 0.5
DOUBTFUL_SECONDS = SILENT_SECONDS - HEARTBEAT_SECONDS - 1
"""Of silence, after which a worker may be another victim of what has silenced the first."""


class Hearing:
    """When each worker that is to be heard of was last heard of. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: dict[int, tuple[float, str]] = {}

    def expect(self, workers: Iterable[int]) -> None:
        """Wait for these from now on, and for no others."""
        self._last = {worker: (self._clock(), now()) for worker in workers}

    def heard(self, worker: int) -> None:
        """Take note of a sign of life."""
        if worker in self._last:
            self._last[worker] = self._clock(), now()

    def forget(self, worker: int) -> None:
        """Wait for it no longer."""
        self._last.pop(worker, None)

    def start_over(self) -> None:
        """Give all of them their time again."""
        self.expect(list(self._last))

    def silent(self) -> dict[int, str] | None:
        """Who is silent, and since when; None while another may be about to be."""
        seconds = {worker: self._clock() - at for worker, (at, _) in self._last.items()}
        if any(DOUBTFUL_SECONDS < each < SILENT_SECONDS for each in seconds.values()):
            return None
        return {worker: self._last[worker][1] for worker, each in seconds.items() if each >= SILENT_SECONDS}


async def tell_silence(hearing: Hearing, board: Board) -> None:
    """Show who falls silent and who is heard again."""
    clock = asyncio.get_running_loop().time
    while True:
        before = clock()
        await asyncio.sleep(LOOK_SECONDS)
        if clock() - before > HEARTBEAT_SECONDS:  # it was us who slept
            hearing.start_over()
        silent = hearing.silent()
        if silent is not None and silent != board.state.silent:
            log("silent", workers=",".join(map(str, silent)) or "none")
            board.publish(silent=silent)
