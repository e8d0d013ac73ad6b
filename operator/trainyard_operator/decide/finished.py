"""A run that has ended keeps its ended pods, for their logs, and no live ones."""

from trainyard_api.status import FINISHED

from .decision import Decision, DeletePod, nothing
from .observation import Observation


def finished(seen: Observation) -> Decision | None:
    """Delete what still lives of a finished run."""
    if seen.status.phase not in FINISHED:
        return None
    live = tuple(DeletePod(pod.manifest) for pod in seen.pods if pod.alive and pod.deleting is None)
    return Decision(seen.status, actions=live) if live else nothing(seen)
