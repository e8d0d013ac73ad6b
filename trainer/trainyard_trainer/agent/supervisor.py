"""An agent's life: idle, placed, ranks running, ended, and what a signal or a newer assignment changes of it."""

import asyncio
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime

from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import Assignment, Report, Termination

from .board import Board
from .ending import Ending, decide_termination
from .environment import Environment
from .events import ProgressLog, log, log_reports
from .rank_process import RankProcess, rank_variables

FAILED_GROUP_SECONDS = 10
"""How long ranks may take to leave after one failed: they have nothing left to save, and may hang on the dead one."""


class RefusedError(Exception):
    """An assignment that the agent doesn't take; str(e) says why."""


class Agent:
    """Runs the ranks of one worker, one attempt after the other, until one attempt ends by itself."""

    def __init__(self, environment: Environment, board: Board, held_port: socket.socket | None = None) -> None:
        self.board = board
        self.metrics: dict[str, float] = {}
        """The stage's own gauges."""
        self.terminated: asyncio.Future[Termination] = asyncio.get_running_loop().create_future()
        self._environment = environment
        self._held_port = held_port
        self._assignment: Assignment | None = None
        self._attempt = 0
        """The attempt that the ranks belong to; an older one than the assignment's while they are being ended."""
        self._ranks: list[RankProcess] = []
        self._endings: list[Ending] = []
        self._stop_requested = False
        self._progress_log = ProgressLog(asyncio.get_running_loop().time)

    def assign(self, assignment: Assignment) -> None:
        """Take a place in a group: start its ranks, after ending those of an older attempt."""
        if assignment == self._assignment:
            return
        if self._stop_requested or self.terminated.done():
            raise RefusedError("this agent is stopping; give the place to another")
        if self._assignment and assignment.attempt <= self._assignment.attempt:
            same = assignment.attempt == self._assignment.attempt
            raise RefusedError(
                f"attempt {assignment.attempt} is {'assigned already, otherwise' if same else 'over'}; "
                f"the current attempt is {self._assignment.attempt}"
            )
        log("assigned", attempt=assignment.attempt, worker=assignment.worker, world_size=assignment.world_size)
        self._assignment = assignment
        self.metrics = {}
        self.board.begin(assignment.attempt, stopping=self._running)
        if self._running:
            self._end_ranks(within=FAILED_GROUP_SECONDS)
        else:
            self._start()

    def stop(self) -> None:
        """Have the ranks save and leave, and end with 20."""
        if self._stop_requested or self.terminated.done():
            return
        log("stopping")
        self._stop_requested = True
        if self._running:
            self.board.publish(phase="stopping")
            self._end_ranks(within=self._environment.save_seconds)
        else:
            self._terminate(Termination(exit_code=ExitCode.STOPPED, cause="Stopped", time=now()))

    def fail(self, error: BaseException) -> None:
        """End everything after a mistake of our own: an agent that has lost track of its ranks must not linger."""
        for rank in self._ranks:
            rank.kill()
        if not self.terminated.done():
            message = f"agent: {type(error).__name__}: {error}"
            self._terminate(Termination(exit_code=1, cause="Crashed", message=message, time=now()))

    def reap(self) -> None:
        """Take note of all children that have ended; as process 1, that includes orphans which are none of ours."""
        while (child := _ended_child()) is not None:
            pid, exit_code = child
            for rank in self._ranks:
                if rank.pid == pid:
                    self._rank_ended(rank, exit_code)

    @property
    def _running(self) -> bool:
        return any(rank.exit_code is None for rank in self._ranks)

    def _start(self) -> None:
        assert self._assignment
        if self._held_port:
            self._held_port.close()
        self._attempt = self._assignment.attempt
        self._endings = []
        self._ranks = [
            RankProcess(int(variables["RANK"]), variables, self._listener(self._attempt))
            for variables in (
                rank_variables(os.environ, self._assignment, local, on_loopback=self._environment.on_loopback)
                for local in range(self._assignment.ranks_per_worker)
            )
        ]
        self._publish_ranks(phase="running")

    def _listener(self, attempt: int) -> Callable[[Report], None]:
        """Hears the reports of one attempt's ranks, and none of an attempt that is over."""

        def hear(report: Report) -> None:
            if self._assignment is None or attempt != self._assignment.attempt:
                return
            self.metrics |= report.metrics or {}
            said = {
                name: value
                for name in ("resumed_step", "restored_from", "checkpoint", "artifact")
                if (value := getattr(report, name)) is not None
            }
            if report.progress:
                self.board.progress(report.progress)
                self._progress_log.hear(report.progress)
            if said:
                self.board.publish(**said)
                log_reports(said)
            if report.quarantined:
                self.board.publish(quarantined=[*self.board.state.quarantined, report.quarantined])
                log_reports({"quarantined": report.quarantined})

        return hear

    def _rank_ended(self, rank: RankProcess, exit_code: int) -> None:
        rank.ended(exit_code)
        log("rank_ended", attempt=self._attempt, rank=rank.rank, exit_code=exit_code)
        self._endings.append(
            Ending(
                rank=rank.rank,
                exit_code=exit_code,
                time=now(),
                failure=rank.failure,
                last_lines=list(rank.last_lines),
                asked_to_stop=rank.asked_to_stop,
                killed=rank.killed,
            )
        )
        assert self._assignment
        superseded = self._attempt != self._assignment.attempt
        if not superseded:
            self._publish_ranks()
        if self._running:
            if exit_code != ExitCode.DONE:
                stopped = exit_code == ExitCode.STOPPED
                self._end_ranks(within=self._environment.save_seconds if stopped else FAILED_GROUP_SECONDS)
        elif superseded and not self._stop_requested:
            self._start()
        else:
            self._terminate(decide_termination(self._endings, stop_requested=self._stop_requested))

    def _end_ranks(self, within: float) -> None:
        loop = asyncio.get_running_loop()
        for rank in self._ranks:
            rank.stop()
            loop.call_later(within, rank.kill)

    def _publish_ranks(self, **changes: str) -> None:
        self.board.publish(ranks=[rank.state for rank in self._ranks], **changes)

    def _terminate(self, why: Termination) -> None:
        state = self.board.state
        progress = self.board.latest_progress
        why = why.model_copy(
            update={
                "step": why.step if why.step is not None else (progress.step if progress else None),
                "progress": progress,
                "checkpoint": state.checkpoint,
                "resumed_step": state.resumed_step,
                "artifact": state.artifact,
            }
        )
        self.board.publish(phase="succeeded" if why.exit_code == ExitCode.DONE else "failed", termination=why)
        log("ended", exit_code=why.exit_code, cause=why.cause, message=why.message)
        self.terminated.set_result(why)


def now() -> str:
    """The time in UTC, to the microsecond, as the operator reads it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _ended_child() -> tuple[int, int] | None:
    """Process and exit code of a child that has ended and was not reaped yet."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None
