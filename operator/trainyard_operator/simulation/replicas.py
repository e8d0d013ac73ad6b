"""The operator's pods: each starts a process again when one has ended; what happens to processes happens here."""

import itertools
import random
from collections.abc import Callable
from datetime import timedelta

from ..cluster.simulated import ApiServer
from .faults import Kind, Plan
from .leaders import Leaders
from .network import Network
from .operators import EventFaults, Operator, Surroundings
from .virtual_time import VirtualTimeLoop

LONGEST_RESTART_SECONDS = 20.0
LONGEST_ABSENCE_SECONDS = 30.0
"""Of a process that is paused or cut off."""
DISTURBS_LEADER = 0.7
"""How often it is the leader to whom something happens, rather than any of them."""


class Replicas:
    """All processes of the operator that live, and what they have written."""

    def __init__(
        self,
        plan: Plan,
        loop: VirtualTimeLoop,
        server: ApiServer,
        network: Network,
        draw: random.Random,
        broken: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self.writes = 0
        self.events = EventFaults(plan.lost_events, plan.repeated_events)
        self.clock_offset = timedelta()
        self.processes: list[Operator] = []
        self._plan = plan
        self._loop = loop
        self._network = network
        self._draw = draw
        self._note = note
        self._names = (f"operator-{number}" for number in itertools.count(1))
        self._at_next_write: Kind | None = None
        """What happens to the process that makes it."""
        sound = not (plan.network.refused or plan.network.lost or plan.network.slow)
        self.leaders = Leaders(
            server, loop.time, lambda: self.processes, broken, prompt=sound, latency=plan.network.seconds
        )
        self._around = Surroundings(
            server, network, self.events, lambda: self.clock_offset, plan.elected, broken, self._acts, self._ended
        )
        network.on_send, network.on_change = self._sent, self._changed

    def start(self) -> None:
        """Start all of them, one soon after the other."""
        for number in range(self._plan.replicas):
            self._loop.call_at(0.1 * number, self._start, f"replica-{number}")

    def calm(self) -> None:
        """Nothing is to happen any more."""
        self.events.calm = True
        self._at_next_write = None

    def die(self) -> None:
        """The end of the world."""
        for process in self.processes:
            process.die()

    def happen(self, kind: Kind) -> None:
        """Have something happen, to one that writes next, or else mostly to the leader."""
        if kind.endswith("at its next write"):
            self._at_next_write = kind
        elif self.processes:
            leader, draw = self.leaders.leader, self._draw
            chosen = leader if leader and draw.random() < DISTURBS_LEADER else draw.choice(self.processes)
            self._happen_to(chosen, kind)
        else:
            self._note("to nobody")

    def _happen_to(self, process: Operator, kind: Kind) -> None:
        """What does not end it may do so later, if another has led meanwhile."""
        self._note(f"{kind}: {process.name}")
        if process is self.leaders.leader:
            self.leaders.taken(kind, process)
        seconds = self._draw.uniform(1, LONGEST_ABSENCE_SECONDS)
        match kind:
            case "operator is paused" | "operator is paused at its next write":
                process.pause(seconds)
            case "operator is cut off":
                process.cut_off(seconds)
            case "operator is stopped":
                process.stop()
            case _:
                process.die()
                self._ended(process)

    def _start(self, replica: str) -> None:
        name = next(self._names)
        self._note(f"{name} starts as {replica}")
        self.processes.append(Operator(name, replica, random.Random(f"{self._plan.seed} {name}"), self._around))

    def _acts(self, process: Operator) -> None:
        self._note(f"{process.name} acts")
        self.leaders.acts(process)

    def _ended(self, process: Operator) -> None:
        """A process has ended: its pod starts another one."""
        if process in self.processes:
            self._note(f"{process.name} has ended")
            self.processes.remove(process)
            self._loop.call_later(self._draw.uniform(0.5, LONGEST_RESTART_SECONDS), self._start, process.replica)

    def _named(self, sender: str) -> Operator | None:
        return next((each for each in self.processes if each.name == sender), None)

    def _sent(self, sender: str, method: str, path: str) -> None:
        process = self._named(sender)
        if process and self._plan.elected and "/leases" not in path:
            self.leaders.sent(process, f"{method} {path}")

    def _changed(self, sender: str, method: str, path: str) -> bool:
        """A request that changes something was served; whether its sender is dead now."""
        if sender.startswith("operator") and "/leases" not in path:
            self.writes += 1
            self._note(f"{sender}: {method} {path.rpartition('/namespaces/')[2]}")
            process = self._named(sender)
            if process and (kind := self._at_next_write):
                self._at_next_write = None
                self._happen_to(process, kind)
        return sender in self._network.gone
