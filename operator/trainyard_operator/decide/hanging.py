"""A group in which nothing moves any more. Agents see that a rank is silent, take the stacks of all ranks and tell where these
are; here that becomes one sentence, with the ranks that all others wait for, and the node that they are on.

An agent that tells nothing may itself be stopped, so the operator keeps a clock as well, slower than theirs.
"""

from collections.abc import Iterable
from datetime import timedelta
from itertools import groupby

from trainyard_api.protocol import Hang, Place, Termination
from trainyard_api.status import Phase, Reason

from .causes import End
from .observation import Observation, Pod, parse_time

TELLING_SECONDS = 5.0
"""After one agent has told, how long the others may take: all ranks go silent within a step."""
OVERDUE_SECONDS = 60.0
"""How long after an agent should have told of a hang it is taken for hung itself."""
NAMED_RANKS = 8
"""More are counted instead."""
CULPRITS_FIRST = {"unresponsive": 0, "runs": 1, "waits": 2}
VERBS = {
    "unresponsive": ("does not respond:", "do not respond:"),
    "runs": ("is in", "are in"),
    "waits": ("waits in", "wait in"),
}


def still_telling(seen: Observation) -> bool:
    """Whether some agents have told of a hang, and others may still."""
    someone = any(peer.hang for peer in seen.peers)
    return someone and bool(_mute(seen)) and seen.seconds_since(seen.agent_changed) < TELLING_SECONDS


def _mute(seen: Observation) -> list[Pod]:
    """Pods whose agents tell nothing of a hang."""
    told = {peer.worker for peer in seen.peers if peer.hang}
    return [pod for worker, pod in seen.group.items() if pod.alive and worker not in told]


def hung(seen: Observation) -> End | None:
    """The end of an attempt whose ranks are silent, as their agents tell it; or whose agents are."""
    if seen.status.phase not in (Phase.STARTING, Phase.RUNNING):
        return None
    if hangs := [peer.hang for peer in seen.peers if peer.hang]:
        return _told(seen, hangs)
    if seen.agent is None:
        return None
    recovery, progress = seen.run.spec.recovery, seen.agent.progress
    stepping = progress is not None and progress.step > (seen.agent.resumed_step or 0)
    limit = recovery.hang_seconds if stepping else max(recovery.hang_seconds, recovery.start_seconds)
    silent = seen.silent_seconds(seen.agent_changed)
    if silent < limit + OVERDUE_SECONDS:
        return None
    text = f"no sign of life for {silent:.0f} s, and agents say nothing of it"
    return End(Reason.HUNG, text, at=seen.now - timedelta(seconds=silent))


def _told(seen: Observation, hangs: list[Hang]) -> End:
    places = _together(place for hang in hangs for place in hang.places)
    since = min(parse_time(hang.since) for hang in hangs)
    stacks = next((hang.stacks for hang in hangs if hang.stacks), "")
    culprit = places[0].ranks[0] if places and places[0].state != "waits" else None
    mute = _mute(seen)
    pod = mute[0] if mute else None
    if culprit is not None:
        pod = seen.group.get(culprit // seen.run.spec.ranks_per_worker(seen.stage))
    parts = [summary(places)]
    if mute:
        parts.append(f"pods whose agents tell nothing: {', '.join(pod.name for pod in mute[:NAMED_RANKS])}")
    if stacks:
        parts.append(f"stacks: {stacks}")
    text = f"no step for {seen.seconds_since(since):.0f} s: {'; '.join(parts)}"
    said = Termination(exit_code=0, cause=Reason.HUNG, rank=culprit)
    return End(Reason.HUNG, text, pod, at=since, said=said, stacks=stacks)


def _together(places: Iterable[Place]) -> list[Place]:
    """What agents tell, ranks at the same place together: first those that the others wait for, the fewest first."""

    def at(place: Place) -> tuple[str, str]:
        return place.state, place.where

    merged = [
        Place(ranks=sorted(rank for place in there for rank in place.ranks), state=state, where=where)
        for (state, where), there in groupby(sorted(places, key=at), at)
    ]
    return sorted(merged, key=lambda place: (CULPRITS_FIRST[place.state], len(place.ranks)))


def summary(places: list[Place]) -> str:
    """`rank 2 is in load (data/shards.py:40); ranks 0, 1, 3 wait in all_reduce (engine/processes.py:67)`"""
    return "; ".join(_sentence(place) for place in places) or "where its ranks are is not known"


def _sentence(place: Place) -> str:
    one, several = VERBS[place.state]
    if len(place.ranks) == 1:
        return f"rank {place.ranks[0]} {one} {place.where}"
    which = (
        f"ranks {', '.join(map(str, place.ranks))}" if len(place.ranks) <= NAMED_RANKS else f"{len(place.ranks)} ranks"
    )
    return f"{which} {several} {place.where}"
