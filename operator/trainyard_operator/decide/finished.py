"""A run that has ended keeps its ended pods, for their logs, and no live ones; when these are gone, `expiring` has the word."""

from trainyard_api.status import FINISHED

from .clearing import left_behind
from .decision import Decision, DeletePod, nothing
from .observation import Observation

LINGER_SECONDS = 30.0
"""How long a pod may go on after its trainer has ended: the kubelet needs a second, a sidecar would never leave."""


def finished(seen: Observation) -> Decision | None:
    """Delete what still lives of a finished run."""
    if seen.status.phase not in FINISHED:
        return None
    going = [pod for pod in seen.pods if not pod.over and pod.deleting is None]
    unwanted = [pod for pod in going if pod.alive or seen.seconds_since(pod.ended) > LINGER_SECONDS]
    overdue = left_behind(seen)
    if not unwanted and not overdue:
        return nothing(seen, look_again=LINGER_SECONDS) if any(not pod.over for pod in seen.pods) else None
    deletes = (DeletePod(pod.manifest) for pod in unwanted)
    return Decision(seen.status, actions=(*deletes, *(DeletePod(pod.manifest, 0) for pod in overdue)))
