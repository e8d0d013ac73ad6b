"""An agent's life: idle, placed, ranks running, failed and waiting for its next place, ended.

A failed attempt doesn't end its agent: how the ranks ended is shown, and fresh ones start under the next assignment. What
ends it: a stage that is done, one that would fail again the same way, a stop, and a mistake of its own.
"""

import asyncio
import os
import socket
from collections.abc import Callable

from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import AgentState, Assignment, PeerState, Report, Termination
from trainyard_api.stages import TRAINING_KINDS

from ..held import Held
from .attempt import Attempt, now
from .board import Board
from .environment import Environment, hold_port_again
from .events import ProgressLog, log, log_reports
from .hearing import Hearing
from .rank_process import RankProcess, rank_variables
from .snapshots import Snapshots
from .starting import Start, Warm, fresh

FAILED_GROUP_SECONDS = 1
"""How long ranks may take to leave after one failed. They have nothing left to save, and may hang on the dead one; those
that notice its end by themselves say so within milliseconds.
"""
FINAL = (ExitCode.DONE, ExitCode.PERMANENT)
"""Ends that no further attempt changes."""
ENDED = ("succeeded", "failed")
"""Phases of an agent of which nothing more is to be heard in its attempt: it leaves, or waits for the next."""
WARMED = (*TRAINING_KINDS, "evaluate")
"""Kinds of stages whose ranks import for seconds."""


class RefusedError(Exception):
    """What an agent doesn't take; str(e) says why."""


class Agent:
    """Runs the ranks of one worker, one attempt after the other."""

    def __init__(self, environment: Environment, board: Board, held_port: socket.socket | None = None) -> None:
        self.board = board
        self.metrics: dict[str, float] = {}
        """The stage's own gauges."""
        self.snapshots = Snapshots()
        self.hearing = Hearing(asyncio.get_running_loop().time)
        self.terminated: asyncio.Future[Termination] = asyncio.get_running_loop().create_future()
        self._environment = environment
        self._held_port = held_port
        self._assignment: Assignment | None = None
        self._attempt: Attempt | None = None
        """The one that the ranks belong to; older than the assignment's while they are being ended."""
        self._stop_requested = False
        self._peers: dict[int, PeerState] = {}
        self._progress_log = ProgressLog(asyncio.get_running_loop().time)
        self._warm = Warm(environment.kind, self._start_if_due) if environment.kind in WARMED else None

    @property
    def assignment(self) -> Assignment | None:
        """The place that this agent has, whether its ranks run or not."""
        return self._assignment

    @property
    def attempt(self) -> Attempt | None:
        """What is known of the ranks that this agent has started last."""
        return self._attempt

    @property
    def stopping(self) -> bool:
        """Whether this agent was asked to stop."""
        return self._stop_requested

    def assign(self, assignment: Assignment) -> None:
        """Take a place in a group: start its ranks, after ending those of an older attempt."""
        if self._assignment and assignment == _with_patience_of(assignment, self._assignment):
            self._assignment = assignment
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
        self.hearing.expect([0] if assignment.worker else range(1, assignment.workers))
        self.metrics = {}
        self._progress_log.begin()
        self.board.begin(assignment.attempt, self._peers_of(assignment.attempt), stopping=self._running)
        if self._attempt and self._running:
            self._attempt.kill()  # whatever they still save is fenced
        else:
            self._start()

    def hear_peer(self, peer: PeerState) -> None:
        """Take note of what another agent of the group says of itself, also if it got its assignment before us."""
        self.refuse_older(peer.attempt)
        known = self._peers.get(peer.worker)
        self._peers[peer.worker] = peer
        if peer.attempt == self.board.state.attempt:
            if peer.phase in ENDED:
                self.hearing.forget(peer.worker)
            self.hearing.heard(peer.worker)
            if peer != known:
                self.board.publish(peers=self._peers_of(peer.attempt))

    def refuse_older(self, attempt: int) -> None:
        """Raise RefusedError if the attempt is over."""
        if attempt < self.board.state.attempt:
            raise RefusedError(f"attempt {attempt} is over; the current attempt is {self.board.state.attempt}")

    @property
    def memory_budget(self) -> int:
        """Bytes that snapshots may take here."""
        return self._assignment.job.memory_budget if self._assignment else 0

    def keep(self, copy: Held) -> None:
        """Keep a copy of another worker's snapshot, unless its attempt has come to an end on the way."""
        try:
            self.refuse_older(copy.attempt)
        except RefusedError:
            os.close(copy.fd)
            raise
        self.snapshots.keep(copy)

    def hear_ranks(self) -> None:
        """Take in what ranks have reported by now."""
        for rank in self._attempt.ranks if self._attempt else ():
            rank.hear()

    def stop(self) -> None:
        """Have the ranks save and leave, and end with 20."""
        if self._stop_requested or self.terminated.done():
            return
        log("stopping")
        self._stop_requested = True
        if self._attempt and self._running:
            self.board.publish(phase="stopping")
            self._attempt.end(within=self._environment.save_seconds)
        else:
            self._terminate(Termination(exit_code=ExitCode.STOPPED, cause="Stopped", time=now()))

    def fail(self, error: BaseException) -> None:
        """End everything after a mistake of our own: an agent that has lost track of its ranks must not linger."""
        if self._attempt:
            self._attempt.kill()
        if not self.terminated.done():
            message = f"agent: {type(error).__name__}: {error}"
            self._terminate(Termination(exit_code=1, cause="Crashed", message=message, time=now()))

    def reap(self) -> None:
        """Take note of all children that have ended; as process 1, that includes orphans which are none of ours."""
        while (child := _ended_child()) is not None:
            pid, exit_code = child
            for rank in self._attempt.ranks if self._attempt else ():
                if rank.pid == pid:
                    self._rank_ended(rank, exit_code)

    @property
    def _running(self) -> bool:
        return self._attempt is not None and self._attempt.running

    def _start(self) -> None:
        """Start the ranks of the assignment, now or when the warm process is ready."""
        assert self._assignment
        if self._warm and not self._warm.usable():
            return
        if self._held_port:
            self._held_port.close()
            self._held_port = None
        local_ranks = range(self._assignment.ranks_per_worker)
        self._attempt = Attempt(self._assignment.attempt, map(self._start_rank, local_ranks))
        self._publish_ranks(phase="running")

    def _start_if_due(self) -> None:
        """Start ranks that have been waiting for the warm process."""
        place, attempt = self._assignment, self._attempt
        waiting = place is not None and (attempt is None or attempt.number != place.attempt)
        if waiting and not self._running and not self._stop_requested and not self.terminated.done():
            self._start()

    def _start_rank(self, local_rank: int) -> RankProcess:
        assert self._assignment
        place = rank_variables(self._assignment, local_rank, self._environment, self.snapshots)
        descriptors = {*self.snapshots.slots(local_rank), *(held.fd for held in self.snapshots.whole)}
        hear = self._listener(self._assignment.attempt, local_rank)
        return RankProcess(int(place["RANK"]), place, descriptors, self._start_process, hear)

    def _start_process(self, start: Start) -> int:
        return (self._warm and self._warm.fork(start)) or fresh(start)

    def _listener(self, attempt: int, local_rank: int) -> Callable[[Report], None]:
        """Hears the reports of one attempt's rank; once that is over, only what becomes of its slots."""

        def hear(report: Report) -> None:
            if report.snapshot:
                self.snapshots.note(local_rank, report.snapshot)
            if self._assignment is None or attempt != self._assignment.attempt:
                return
            self.metrics |= report.metrics or {}
            said = {
                name: value
                for name in ("resumed_step", "checkpoint", "artifact", "restored_from")
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
        assert self._attempt
        assert self._assignment
        attempt = self._attempt
        attempt.ended(rank, exit_code)
        log("rank_ended", attempt=attempt.number, rank=rank.rank, exit_code=exit_code)
        superseded = attempt.number != self._assignment.attempt
        if not superseded:
            self._publish_ranks()
        if attempt.running:
            if exit_code != ExitCode.DONE:
                stopped = exit_code == ExitCode.STOPPED
                attempt.end(within=self._environment.save_seconds if stopped else FAILED_GROUP_SECONDS)
        elif superseded and not self._stop_requested:
            self._start()
        else:
            self._attempt_ended(attempt.termination(stop_requested=self._stop_requested))

    def _attempt_ended(self, why: Termination) -> None:
        assert self._assignment
        if why.exit_code in FINAL or self._stop_requested:
            self._terminate(why)
            return
        port = self.board.state.master_port
        if not self._environment.master_port:
            port, self._held_port = hold_port_again(port)
        why = self._in_full(why)
        self.board.publish(phase="failed", termination=why, master_port=port)
        log("attempt_failed", attempt=self._assignment.attempt, exit_code=why.exit_code, cause=why.cause)

    def _publish_ranks(self, **changes: str) -> None:
        assert self._attempt
        self.board.publish(ranks=[rank.state for rank in self._attempt.ranks], **changes)

    def _peers_of(self, attempt: int) -> list[PeerState]:
        return [peer for _, peer in sorted(self._peers.items()) if peer.attempt == attempt]

    def _terminate(self, why: Termination) -> None:
        why = self._in_full(why)
        self.board.publish(phase="succeeded" if why.exit_code == ExitCode.DONE else "failed", termination=why)
        log("ended", exit_code=why.exit_code, cause=why.cause, message=why.message)
        self.terminated.set_result(why)

    def _in_full(self, why: Termination) -> Termination:
        """The termination with what the ranks had reported before."""
        state: AgentState = self.board.state
        progress = self.board.latest_progress
        return why.model_copy(
            update={
                "step": why.step if why.step is not None else (progress.step if progress else None),
                "progress": progress,
                "checkpoint": state.checkpoint,
                "resumed_step": state.resumed_step,
                "artifact": state.artifact,
            }
        )


def _with_patience_of(other: Assignment, assignment: Assignment) -> Assignment:
    """The assignment with the other's patience, which may change while an attempt lasts."""
    patience = {name: getattr(other.job, name) for name in ("hang_seconds", "start_seconds")}
    return assignment.model_copy(update={"job": assignment.job.model_copy(update=patience)})


def _ended_child() -> tuple[int, int] | None:
    """Process and exit code of a child that has ended and was not reaped yet."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None
