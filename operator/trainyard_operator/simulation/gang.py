"""The ranks of one attempt: they start when all are there, train in step, save, and end together.

A gang whose members can't reach one another stands still; one whose member's process ends falls apart within a moment.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from trainyard_api.checkpoint import Name
from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import Artifact, Assignment, Termination
from trainyard_api.status import CheckpointStatus, Progress

from .storage import Checkpoints, FencedError

NOTICE_SECONDS = 1.0
"""Within so long a rank notices that a peer's process has ended."""


@dataclass
class Machine:
    """Where an agent and its ranks are."""

    name: str
    connected: bool = True
    """Whether anyone hears of it."""
    powered: bool = True
    addresses: set[str] = field(default_factory=set)
    """Of the agents that have been there: they reach each other whatever becomes of the network outside."""


class Member(Protocol):
    """An agent, as its gang sees it."""

    node: "Machine"

    def report(self, **said: object) -> None:
        """Take in what its ranks report."""
        ...

    def ranks_ended(self, gang: "Gang", termination: Termination) -> None:
        """Its ranks have ended."""
        ...


@dataclass
class Pace:
    """How fast a stage is."""

    start_seconds: float = 2.0
    step_seconds: float = 3.0
    durable_seconds: float = 1.0
    """From a save until its manifest lands."""


@dataclass
class Gang:
    """The ranks of one attempt of one stage."""

    assignment: Assignment
    """Of whichever member came first."""
    checkpoints: Checkpoints
    pace: Pace
    random: random.Random
    now: Callable[[], str]
    members: dict[int, Member] = field(default_factory=dict)
    step: int = 0
    halted: bool = False
    """It makes no step any more: it hangs, or is about to stop."""
    _saving: bool = False
    _begun: bool = False

    def join(self, worker: int, member: Member) -> None:
        """Start a worker's ranks."""
        self.members[worker] = member
        if self._begun:  # an agent that was started again got the old one's place: its ranks find no peers
            self.halted = True
            self._later(NOTICE_SECONDS, self._lose, worker)
        if len(self.members) == self.assignment.workers and not self._begun:
            self._begun = True
            self._later(self.pace.start_seconds, self._begin)

    def leave(self, worker: int) -> None:
        """A worker's ranks are gone: those of the others notice."""
        self.members.pop(worker, None)
        for peer in tuple(self.members):
            self._later(self.random.random() * NOTICE_SECONDS, self._lose, peer)

    def end(self, worker: int, code: int, cause: str, message: str = "") -> None:
        """A worker's ranks end in this way."""
        if member := self.members.pop(worker, None):
            member.ranks_ended(self, self._termination(code, cause, message))
            for peer in tuple(self.members):
                self._later(self.random.random() * NOTICE_SECONDS, self._lose, peer)

    def stop(self) -> None:
        """A member is asked to stop: all agree on a last step, save and leave with 20, if they can."""
        if not self._moves or self._number not in self.checkpoints.resumed:
            return
        self.halted = True
        self._save()
        self._later(self.pace.durable_seconds + 0.2, self._all_end, ExitCode.STOPPED, "Stopped")

    @property
    def _number(self) -> int:
        return self.assignment.attempt

    @property
    def _trains(self) -> bool:
        return self.assignment.job.kind == "pretrain"

    @property
    def _steps(self) -> int:
        return int(self.assignment.job.settings["steps"])

    @property
    def _moves(self) -> bool:
        """Whether all members are there, work, and can reach one another: storage they reach from anywhere."""
        if self.halted or len(self.members) < self.assignment.workers:
            return False
        machines = [member.node for member in self.members.values()]
        connected = all(each.connected for each in machines) or len({each.name for each in machines}) == 1
        return connected and all(each.powered for each in machines)

    def _later(self, seconds: float, do: Callable[..., None], *arguments: object) -> None:
        asyncio.get_running_loop().call_later(seconds, do, *arguments)

    def _lose(self, worker: int) -> None:
        self.end(worker, ExitCode.RETRY, "PeerLost", "lost a peer")

    def _begin(self) -> None:
        if not self._moves:
            if len(self.members) == self.assignment.workers:
                self._later(1, self._begin)
            return
        if not self._trains:
            self._later(self.pace.step_seconds, self._finish)
            return
        try:
            self.step = self.checkpoints.begin(self._number)
        except FencedError:
            self._fenced()
            return
        restored = "storage" if self.step else None
        self.members[0].report(resumed_step=self.step, restored_from=restored)
        self._later(self.pace.step_seconds, self._train)

    def _train(self) -> None:
        if len(self.members) < self.assignment.workers:
            return
        if not self._moves:
            self._later(1, self._train)
            return
        if self.step >= self._steps:
            self._finish()
            return
        self.step += 1
        self._report_progress()
        if self.step % 5 == 0 or self.step == self._steps:
            self._save()
        self._later(self.pace.step_seconds, self._train)

    def _report_progress(self) -> None:
        progress = Progress(
            step=self.step, steps=self._steps, loss=1 / (1 + self.step), step_seconds=self.pace.step_seconds
        )
        self.members[0].report(progress=progress)

    def _save(self) -> None:
        """Write in the background: shards, a look whether an other attempt has begun, and a little later the manifest."""
        if self._saving:
            return
        self._saving = True
        name = Name(self.step, self._number)
        look = self.random.random() * self.pace.durable_seconds
        self._later(look, self._look, name, self.pace.durable_seconds - look)

    def _look(self, name: Name, left: float) -> None:
        try:
            self.checkpoints.refuse_older(self._number)
        except FencedError:
            self._saving = False
            self._fenced()
        else:
            self._later(left, self._landed, name)

    def _landed(self, name: Name) -> None:
        self._saving = False
        self.checkpoints.land(name)
        if 0 in self.members:
            uri = f"{self.assignment.job.output_uri}/checkpoints/{name}"
            saved = CheckpointStatus(
                step=name.step, uri=uri, time=self.now(), durable_seconds=self.pace.durable_seconds
            )
            self.members[0].report(checkpoint=saved)

    def _fenced(self) -> None:
        self._all_end(ExitCode.RETRY, "PeerLost", "a newer attempt has begun")

    def _finish(self) -> None:
        if self._saving:
            self._later(0.5, self._finish)
            return
        if not self._moves:
            return
        uri = self.assignment.job.output_uri
        self.members[0].report(artifact=Artifact(uri=uri, digest=f"{uri} by {self._number}"))
        self._all_end(ExitCode.DONE, "Done")

    def _all_end(self, code: int, cause: str, message: str = "") -> None:
        for worker, member in sorted(self.members.items()):
            del self.members[worker]
            member.ranks_ended(self, self._termination(code, cause, message))

    def _termination(self, code: int, cause: str, message: str) -> Termination:
        return Termination(exit_code=code, cause=cause, message=message, time=self.now(), step=self.step)
