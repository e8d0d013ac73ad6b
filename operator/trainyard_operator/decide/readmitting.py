"""A suspect node is better than none: where a run has found no room for long, nodes that it keeps off are used again.

But for those that are known to be broken: a run would fail there within seconds, so it waits, and says for what.
"""

from trainyard_api.status import Phase, Reason

from .decision import Decision, Event, change
from .failing import UNPLACED_SECONDS
from .observation import Observation, format_time, later, parse_time
from .suspects import in_force


def readmitting(seen: Observation) -> Decision | None:
    """End the exclusions that only this run is sure of once they have kept it waiting; its pods are then made anew."""
    why, suspects = seen.status.waiting, [each.node for each in in_force(seen) if each.scope != "Namespace"]
    kept_off = {node for pod in seen.group.values() if pod.unschedulable for node in pod.excluded}
    if seen.status.phase != Phase.QUEUED or why is None or why.reason != Reason.WAITING_FOR_CAPACITY:
        return None
    nodes = sorted(kept_off.intersection(suspects))
    if not nodes or seen.seconds_since(later(parse_time(why.since), seen.watching_since)) < UNPLACED_SECONDS:
        return None
    now = format_time(seen.now)
    entries = [
        each.model_copy(update={"until": now}) if each.node in nodes else each for each in seen.status.excluded_nodes
    ]
    text = f"no room in {UNPLACED_SECONDS:.0f} s without {', '.join(nodes)}, so pods may go there again"
    event = Event("Normal", "NodeReadmitted", text)
    return Decision(change(seen, excluded_nodes=tuple(entries)), look_again=0, events=(event,))
