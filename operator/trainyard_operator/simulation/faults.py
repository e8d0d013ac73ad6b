"""What goes wrong, drawn from a seed: on the network at every request, at moments of a plan to pods, nodes and operators."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "rank crashes",
    "rank is killed",
    "ranks hang",
    "agent is killed",
    "pod runs out of memory",
    "pod is deleted",
    "pod is evicted",
    "pod is preempted",
    "node is cut off",
    "node loses power",
    "operator dies",
    "operator is stopped",
    "operator is paused",
    "operator is paused at its next write",
    "operator is cut off",
    "operator dies at its next write",
    "watch drops",
    "clock jumps",
    "run is touched",
    "quota is used up",
]
FAULTS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]


@dataclass
class NetworkFaults:
    """Chances at each request; `calm` switches all off but the latency."""

    seconds: float = 0.005
    slow: float = 0.0
    refused: float = 0.0
    lost: float = 0.0
    calm: bool = False

    def latency(self, random: random.Random) -> float:
        """Seconds that a message is on its way."""
        draw, slow = random.random(), random.random() < self.slow
        return self.seconds * (0.5 + draw) * (400 if slow and not self.calm else 1)

    def refusal(self, random: random.Random, host: str) -> tuple[int, Mapping[str, str], Any] | None:
        """The answer of a server that won't look at a request."""
        draw = random.random()
        if self.calm or draw >= self.refused:
            return None
        code = random.choice((429, 429, 500, 503, 504))
        headers = {"Retry-After": str(random.choice((1, 2, 5)))} if code == 429 else {}
        return code, headers, {"kind": "Status", "code": code, "reason": "Faulty", "message": "a fault of the plan"}

    def loses_answer(self, random: random.Random) -> bool:
        """Whether the answer to a request that was served gets lost."""
        return random.random() < self.lost and not self.calm


@dataclass(frozen=True)
class Fault:
    """Something that happens at a moment; to what, is drawn from what is there then."""

    at: float
    kind: Kind


@dataclass(frozen=True)
class RunPlan:
    """A run, as a user would write it."""

    name: str
    workers: int
    steps: int
    max_failures: int
    created: float
    deleted: float | None


@dataclass(frozen=True)
class Plan:
    """All that a seed decides beforehand."""

    seed: int
    runs: tuple[RunPlan, ...]
    nodes: int
    pods_per_node: int
    network: NetworkFaults
    faults: tuple[Fault, ...]
    slow_pods: float
    """Chance that a pod's image has to be pulled, or that a kubelet starts a container again late."""
    restarts_in_place: bool
    """Whether nodes can start containers again by rules of their pods."""
    lost_events: float
    repeated_events: float
    replicas: int
    """Of the operator: all watch, one acts."""
    elected: bool
    """Whether the one that acts is elected: where there is one alone that is left out of most worlds, for it takes a third of
    their time.
    """
    fault_seconds: float
    """When all faults end: from then on each run must come to an end."""


def draw_plan(seed: int) -> Plan:
    """The plan of a seed. Some are calm, most are not; a few have everything."""
    draw = random.Random(seed)
    wild = draw.choice((0.0, 0.3, 1.0, 1.0, 2.0))
    runs = tuple(
        RunPlan(
            name=f"run-{number}",
            workers=draw.choice((1, 2, 2, 4)),
            steps=draw.choice((10, 20, 40)),
            max_failures=draw.choice((1, 3, 10)),
            created=draw.uniform(0, 60) * number,
            deleted=draw.uniform(20, 300) if draw.random() < 0.1 else None,
        )
        for number in range(draw.choice((1, 1, 2, 3)))
    )
    fault_seconds = draw.uniform(100, 500)
    kinds = draw.sample(FAULTS, draw.randint(1, len(FAULTS)))
    replicas = draw.choice((1, 1, 1, 2))
    times = sorted(draw.uniform(5, fault_seconds) for _ in range(round(wild * draw.uniform(1, 8))))
    return Plan(
        seed=seed,
        runs=runs,
        nodes=draw.choice((2, 3, 5)),
        pods_per_node=draw.choice((2, 4, 8)),
        network=NetworkFaults(
            seconds=draw.choice((0.002, 0.02, 0.2)),
            slow=wild * draw.choice((0, 0.01)),
            refused=wild * draw.choice((0, 0.01, 0.1)),
            lost=wild * draw.choice((0, 0.01, 0.1)),
        ),
        faults=tuple(Fault(at, draw.choice(kinds)) for at in times),
        slow_pods=draw.choice((0, 0.2)),
        lost_events=wild * draw.choice((0, 0, 0.02)),
        repeated_events=wild * draw.choice((0, 0.05)),
        replicas=replicas,
        elected=replicas > 1 or draw.random() < 0.1,
        fault_seconds=fault_seconds,
        restarts_in_place=draw.random() < 0.7,
    )
