"""Why an agent's ranks ended, as one exit code and one explanation.

Ranks rarely end alone: one fails, the others lose it, and we end the rest. The order below finds the cause among its
consequences: what would fail again, then what crashed by itself, then a stop that was asked for, then what may be
tried again, and last those that we had to end because they wouldn't.
"""

import signal
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import Termination

ENOUGH_MEMORY = "raise spec.resources.memory or lower microBatch"
TERMINATION_BYTES = 4096
"""What the kubelet reads of a termination log."""


@dataclass(frozen=True)
class Ending:
    """How one rank ended."""

    rank: int
    exit_code: int
    """Minus the signal's number when a signal ended it."""
    time: str
    failure: Termination | None = None
    """What it said of it."""
    last_lines: list[str] = field(default_factory=list)
    crashed_in: str = ""
    """Where it was when it crashed in native code, if that is known."""
    asked_to_stop: bool = False
    """We had sent SIGTERM before."""
    killed: bool = False
    """We had sent SIGKILL before."""
    out_of_memory: bool = False
    """The kernel has killed for lack of memory in this container since the rank before it ended."""

    @property
    def by_us(self) -> bool:
        """A signal of ours ended it."""
        asked = self.asked_to_stop and self.exit_code == -signal.SIGTERM
        return asked or (self.killed and self.exit_code == -signal.SIGKILL)

    @property
    def stopped(self) -> bool:
        """It stopped on request; one that hadn't begun, so that the request itself ended it, had nothing to save."""
        return self.exit_code == ExitCode.STOPPED or (self.by_us and not self.killed)

    @property
    def crashed(self) -> bool:
        """It ended in none of the ways that ranks and agents agree on, and by itself."""
        return self.exit_code not in list(ExitCode) and not self.by_us


def decide_termination(endings: list[Ending], *, stop_requested: bool) -> Termination:
    """The agent's termination, from those of all its ranks, the first to end first."""

    def first(holds: Callable[[Ending], bool]) -> Ending | None:
        return next((each for each in endings if holds(each)), None)

    if permanent := first(lambda it: it.exit_code == ExitCode.PERMANENT):
        return _explain(permanent, ExitCode.PERMANENT, "PermanentError")
    if crashed := first(lambda it: it.crashed):
        return _explain(crashed, shown_code(crashed.exit_code), "Crashed")
    caused = first(
        lambda it: it.exit_code == ExitCode.RETRY and it.failure is not None and it.failure.cause != "PeerLost"
    )
    retry = caused or first(lambda it: it.exit_code == ExitCode.RETRY)
    stopped = first(lambda it: it.exit_code == ExitCode.STOPPED) or first(lambda it: it.stopped)
    if stopped and (stop_requested or not retry):
        return _explain(stopped, ExitCode.STOPPED, "Stopped")
    if retry:
        return _explain(retry, ExitCode.RETRY, "PeerLost")
    if killed := first(lambda it: it.killed and it.by_us):
        return _explain(killed, shown_code(killed.exit_code), "Killed")
    return Termination(exit_code=ExitCode.DONE, cause="Done", time=endings[-1].time)


def shown_code(exit_code: int) -> int:
    """An exit code as the kubelet shows it: 128 + n for signal n."""
    return exit_code if exit_code >= 0 else 128 - exit_code


def bounded(termination: Termination) -> bytes:
    """The termination as JSON of at most TERMINATION_BYTES; what explains least is left out first."""
    return next(text for each in _ever_smaller(termination) if len(text := _json(each)) <= TERMINATION_BYTES)


def _explain(ending: Ending, exit_code: int, cause: str) -> Termination:
    said = ending.failure or Termination(exit_code=exit_code, cause=cause, message=_outside_view(ending))
    if ending.exit_code == -signal.SIGKILL:
        said = said.model_copy(update={"cause": "OutOfMemory" if ending.out_of_memory else "Killed"})
    known = {"exit_code": exit_code, "rank": ending.rank, "time": ending.time, "last_lines": ending.last_lines}
    return said.model_copy(update=known)


def _outside_view(ending: Ending) -> str:
    if ending.killed and ending.by_us:
        return f"rank {ending.rank} didn't end within its time after SIGTERM, so it was killed"
    if ending.stopped:
        return f"rank {ending.rank} was stopped before it had begun"
    if ending.exit_code == -signal.SIGKILL and ending.out_of_memory:
        return f"rank {ending.rank} was killed by the kernel, for the worker's memory is used up; {ENOUGH_MEMORY}"
    if ending.exit_code == -signal.SIGKILL:
        return f"rank {ending.rank} was killed from outside (SIGKILL)"
    if ending.exit_code < 0:
        where = f" in {ending.crashed_in}" if ending.crashed_in else ""
        return f"rank {ending.rank} was ended by {signal.Signals(-ending.exit_code).name}{where}"
    return f"rank {ending.rank} ended with exit code {ending.exit_code}"


def _json(termination: Termination) -> bytes:
    return termination.model_dump_json(by_alias=True, exclude_none=True).encode()


def _ever_smaller(whole: Termination) -> Iterator[Termination]:
    yield whole
    for first in range(1, len(whole.last_lines) + 1):
        yield whole.model_copy(update={"last_lines": whole.last_lines[first:]})
    bare = whole.model_copy(update={"last_lines": []})

    def cut(length: int) -> Termination:
        return bare.model_copy(update={"message": whole.message[:length] + "…"})

    too_long = bisect_right(range(len(whole.message)), TERMINATION_BYTES, key=lambda length: len(_json(cut(length))))
    yield cut(max(0, too_long - 1))
    for given_up in ({"progress": None}, {"progress": None, "checkpoint": None}):
        yield bare.model_copy(update={"message": whole.message[:200] + "…", **given_up})
    yield Termination(exit_code=whole.exit_code, cause=whole.cause, time=whole.time, rank=whole.rank)
