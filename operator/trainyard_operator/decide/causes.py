"""Why an attempt ended. The order is the design's: disruption, node, exit code; among several ends the first cause, not its
consequences, is the attempt's.
"""

from dataclasses import dataclass
from datetime import datetime

from trainyard_api.exit_codes import ExitCode
from trainyard_api.status import Reason

from .observation import Observation, Pod

DISRUPTIONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "TerminationByKubelet": Reason.EVICTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
}
UNCOUNTED = (Reason.PREEMPTED, Reason.EVICTED, Reason.NODE_LOST, Reason.POD_DELETED)
"""Causes that are not the run's fault and never use up its budget."""
CONSEQUENCES = ("PeerLost", "Stopped")
"""What ranks say that ended because another one did."""
SETTLE_SECONDS = 3.0
"""How long a consequence waits for its cause to be seen: an exit shows within a second where the kubelet is healthy."""


@dataclass(frozen=True)
class End:
    """The end of an attempt."""

    cause: Reason
    message: str
    pod: Pod | None = None
    pod_name: str = ""
    at: datetime | None = None
    permanent: bool = False
    """It would fail again the same way."""
    consequence: bool = False
    """Only what follows from another end that is not seen yet."""


def ends(seen: Observation, whole: bool) -> list[End]:
    """All ends in the current group, the likeliest first cause first.

    `whole` says that the group has been complete before, so that a pod that is missing was deleted.
    """
    found = [end for pod in seen.group.values() if (end := _end_of(pod))]
    if whole:
        prefix = f"{seen.run.metadata.name}-{seen.stage.name}"
        for worker in range(seen.workers):
            if worker not in seen.group:
                name = f"{prefix}-{worker}-{seen.status.attempt}"
                found.append(End(Reason.POD_DELETED, f"pod {name} is gone", pod_name=name, at=seen.now))
    return sorted(found, key=lambda end: (not end.permanent, end.consequence, end.at or seen.now))


def _end_of(pod: Pod) -> End | None:
    if pod.exit_code == ExitCode.DONE:
        return None
    said = pod.termination
    text = (said.message if said else "") or pod.exit_reason
    if pod.exit_code == ExitCode.PERMANENT:
        return End(Reason.PERMANENT_ERROR, text, pod, pod.name, pod.ended, permanent=True)
    if pod.disruption:
        cause = DISRUPTIONS.get(pod.disruption, Reason.EVICTED)
        return End(cause, f"pod {pod.name}: {pod.disruption}", pod, pod.name, pod.ended)
    if pod.deleting is not None:
        return End(Reason.POD_DELETED, f"pod {pod.name} was deleted", pod, pod.name, pod.ended)
    if pod.alive:
        return None
    code = pod.exit_code
    if pod.exit_reason == "OOMKilled":
        memory = f"pod {pod.name} ran out of memory; raise spec.resources.memory or lower microBatch"
        return End(Reason.OUT_OF_MEMORY, memory, pod, pod.name, pod.ended)
    if code is None:
        return End(Reason.EVICTED, f"pod {pod.name}: {pod.exit_reason or 'failed'}", pod, pod.name, pod.ended)
    consequence = code in (ExitCode.STOPPED, ExitCode.RETRY) and (not said or said.cause in CONSEQUENCES)
    if code == ExitCode.STOPPED:
        return End(Reason.EVICTED, f"pod {pod.name} was stopped", pod, pod.name, pod.ended, consequence=consequence)
    return End(
        Reason.PROCESS_FAILED, f"pod {pod.name}: exit code {code}: {text}", pod, pod.name, pod.ended, False, consequence
    )
