"""A rank that is slower than the others holds all of them up. It goes on record with its node, and is told once; somebody may
want to look at that node, and nothing is done about it here.
"""

from trainyard_api.protocol import Straggler as Told
from trainyard_api.status import Straggler

from .decision import Event
from .observation import Observation

KEPT_STRAGGLERS = 10
"""The slowest: if more are slow, it is no node of theirs."""


def slow_ranks(seen: Observation) -> tuple[Straggler, ...]:
    """Those that the agent of rank 0 tells of, as they are on record if they are the same ones as before."""
    told = seen.agent.stragglers if seen.agent else []
    slowest = sorted(told, key=lambda each: (-each.seconds, each.rank))[:KEPT_STRAGGLERS]
    if {each.rank for each in slowest} == {each.rank for each in seen.status.stragglers}:
        return seen.status.stragglers
    return tuple(_on_its_node(seen, each) for each in slowest)


def told_of(seen: Observation, slow: tuple[Straggler, ...]) -> tuple[Event, ...]:
    """An event for each of them that is not on record."""
    known = {each.rank for each in seen.status.stragglers}
    return tuple(
        Event("Warning", "Straggler", f"stage {seen.stage.name}: {described(each)}; all ranks wait for it")
        for each in slow
        if each.rank not in known
    )


def described(slow: Straggler) -> str:
    """`rank 3 (pod tiny-base-1-2, node b) takes 1.6 times as long as the others`"""
    times = slow.seconds / slow.usual_seconds if slow.usual_seconds else 0.0
    return f"rank {slow.rank} (pod {slow.pod}, node {slow.node}) takes {times:.1f} times as long as the others"


def _on_its_node(seen: Observation, told: Told) -> Straggler:
    pod = seen.group.get(told.rank // seen.run.spec.ranks_per_worker(seen.stage))
    return Straggler(
        rank=told.rank,
        pod=pod.name if pod else "",
        node=pod.node if pod else "",
        seconds=told.seconds,
        usual_seconds=told.usual_seconds,
    )
