"""The ranks of one attempt on this worker, from their start to the end of the last one."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

from trainyard_api.protocol import Termination

from .ending import Ending, decide_termination
from .memory_limit import out_of_memory_kills
from .rank_process import RankProcess


class Attempt:
    """All that is known of one attempt; the next one begins with a new one of these."""

    def __init__(self, number: int, ranks: Iterator[RankProcess]) -> None:
        self.number = number
        self.ranks = list(ranks)
        self._endings: list[Ending] = []
        self._out_of_memory = out_of_memory_kills()
        """That the last rank to end has left behind."""

    @property
    def running(self) -> bool:
        """Whether any of its ranks still runs."""
        return any(rank.exit_code is None for rank in self.ranks)

    def end(self, within: float) -> None:
        """Ask the ranks to save and leave, and kill those that are still there when the time is over."""
        for rank in self.ranks:
            rank.stop()
            asyncio.get_running_loop().call_later(within, rank.kill)

    def kill(self) -> None:
        """End the ranks now."""
        for rank in self.ranks:
            rank.kill()

    def ended(self, rank: RankProcess, exit_code: int) -> None:
        """Take note of a rank's end."""
        rank.ended(exit_code)
        before, self._out_of_memory = self._out_of_memory, out_of_memory_kills()
        self._endings.append(
            Ending(
                rank=rank.rank,
                exit_code=exit_code,
                time=now(),
                failure=rank.failure,
                last_lines=rank.last_words.lines,
                crashed_in=rank.last_words.crashed_in,
                asked_to_stop=rank.asked_to_stop,
                killed=rank.killed,
                out_of_memory=self._out_of_memory > before,
            )
        )

    def termination(self, *, stop_requested: bool) -> Termination:
        """How it ended, once no rank runs any more."""
        return decide_termination(self._endings, stop_requested=stop_requested)


def now() -> str:
    """The time in UTC, to the microsecond, as the operator reads it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
