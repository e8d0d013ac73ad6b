"""How much of a group is made anew: as little as there is hope for.

Ranks alone, in pods that live on, which costs seconds; with them a container in its pod; the pods that are gone; all of the
group once that has helped twice in a row to nothing, for then something that stayed may be what is wrong.
"""

from itertools import accumulate, pairwise

from trainyard_api.status import Reason, Tier

from .causes import End
from .in_place import backs_off, started_again
from .observation import GIVEN_UP, Observation
from .suspects import in_force

CHEAP_TRIES = 2
CHEAP_TRIES_AFTER_HANGS = 1
"""A hang costs `hangSeconds` each time, so it is given one try less."""
WHOLE = (Reason.START_TIMEOUT, Reason.WAITING_FOR_CAPACITY)
"""Causes that a group has before its ranks run: to keep a part of it would keep what the other part may be waiting for."""


def tier_of(seen: Observation, end: End, leaving: str = "") -> Tier:
    """The tier at which the end of an attempt is recovered from, if pods are to leave this node."""
    tries = CHEAP_TRIES_AFTER_HANGS if end.cause == Reason.HUNG else CHEAP_TRIES
    if end.cause in WHOLE or futile(seen) >= tries:
        return "group"
    left = {leaving, *(each.node for each in in_force(seen))} - {""}
    staying = [pod for pod in seen.group.values() if pod.wanted and pod.node not in left and not backs_off(pod)]
    if len(staying) < seen.workers or end.cause in GIVEN_UP:
        return "pod"
    return "container" if any(started_again(seen, pod) for pod in staying) else "ranks"


def futile(seen: Observation) -> int:
    """How many recoveries of this stage, the last ones in a row, led to no newer checkpoint than they began from."""
    entries = [entry for entry in seen.status.recoveries if entry.stage == seen.stage.name]
    reached = [entry.resumed_step or 0 for entry in entries] + [seen.checkpoint.step if seen.checkpoint else 0]
    count = 0
    for before, after in pairwise(accumulate(reached, max)):
        count = count + 1 if after <= before else 0
    return count
