"""Why an attempt ended. The order is the design's: disruption, node, exit code; among several ends the first cause, not its
consequences, is the attempt's.

Ranks end with their agents living on, so an end is told by agents as well as by pods: a pod's own end comes first, for an
agent that was killed tells nothing, and its peers only what they felt of it.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import SILENT_SECONDS, Termination
from trainyard_api.status import Reason

from .container import Ended
from .in_place import started_again
from .matching import first_rule
from .observation import Observation, Pod, parse_time
from .silence import silences

DISRUPTIONS = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "TerminationByKubelet": Reason.EVICTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
}
UNCOUNTED = (
    Reason.PREEMPTED,
    Reason.EVICTED,
    Reason.NODE_LOST,
    Reason.POD_DELETED,
    Reason.WAITING_FOR_CAPACITY,
    Reason.ROLLED_BACK,
)
"""Causes that never use up the run's budget: they are not its fault, or, with roll-backs, have a bound of their own."""
KILLED = 137
"""What SIGKILL shows as."""
CAUSE, STOPPED, PEER_LOST = range(3)
"""How near an end is to what caused it all. Who was stopped agreed to a stop that another was asked for; who lost a peer knows
least.
"""
CONSEQUENCES = {"Stopped": STOPPED, "PeerLost": PEER_LOST}
"""What ranks say that ended because another one did."""
SETTLE_SECONDS = 3.0
"""How long a consequence waits for its cause to be seen: an exit shows within a second where the kubelet is healthy."""
SETTLE_SILENT_SECONDS = SILENT_SECONDS + SETTLE_SECONDS + 2
"""The same while one of the group has not said how it fared: its node may be what was lost."""
REPLACED_SECONDS = 1.0
"""Before a group was complete, a pod of it that has ended was replaced. Kubelets write times to the second."""


@dataclass(frozen=True)
class End:
    """The end of an attempt."""

    cause: Reason
    message: str
    pod: Pod | None = None
    at: datetime | None = None
    exit_code: int | None = None
    said: Termination | None = None
    """What the agent had to say of it."""
    permanent: bool = False
    """It would fail again the same way."""
    distance: int = CAUSE
    stacks: str = ""
    """URI of the folder that has them, after a hang."""

    @property
    def text(self) -> str:
        """All that is said of it: the message, and what the process wrote last."""
        return "\n".join((self.message, *(self.said.last_lines if self.said else ())))

    @property
    def crashed(self) -> bool:
        """Whether a process ended by itself, neither killed nor for lack of another one: it may well do so again."""
        kinds = (None, ExitCode.RETRY, ExitCode.STOPPED, KILLED)
        return self.cause == Reason.PROCESS_FAILED and self.exit_code not in kinds

    @property
    def consequence(self) -> bool:
        """Whether it only follows from another end, which may not be seen yet."""
        return self.distance != CAUSE


def ends(seen: Observation) -> list[End]:
    """All ends of the current attempt, the likeliest first cause first.

    Until the group has been complete, a pod of an earlier attempt that ends is only one more to be made anew.
    """
    members = {worker: pod for worker, pod in seen.group.items() if not _was_replaced(seen, pod)}
    pods = [pod for pod in members.values() if seen.settled or pod.attempt == seen.status.attempt]
    permanent = [pod for pod in seen.group.values() if pod.exit_code == ExitCode.PERMANENT]
    late = [end for pod in permanent if (end := _end_of_pod(pod)) and _is_permanent(seen, end)]
    found = [*late, *(end for pod in pods if (end := _end_of_pod(pod)))]
    found += [_end_of_container(pod) for pod in pods if pod.wanted and started_again(seen, pod)]
    found += [
        _end(seen.group.get(peer.worker), peer.worker, peer.termination.exit_code, peer.termination)
        for peer in seen.peers
        if peer.phase == "failed" and peer.termination
    ]
    if seen.settled:
        lost = [worker for worker in range(seen.workers) if worker not in members]
        found += [End(Reason.POD_DELETED, f"the pod of worker {worker} is gone", at=seen.now) for worker in lost]
    found += [
        End(
            Reason.NODE_LOST if it.node_lost else Reason.AGENT_SILENT,
            f"pod {it.pod.name}: nothing was heard of its agent for {seen.seconds_since(it.since):.0f} s"
            + (f", nor of anything on node {it.pod.node}" if it.node_lost else ""),
            it.pod,
            at=it.since,
        )
        for it in silences(seen)
    ]
    found = [replace(end, permanent=_is_permanent(seen, end)) if end.permanent else end for end in found]
    return sorted(found, key=lambda end: (not end.permanent, end.distance, _went_along(end), end.at or seen.now))


def _was_replaced(seen: Observation, pod: Pod) -> bool:
    """Whether it is kept for its log alone, and the pod that took its place in this attempt is gone."""
    has_place = pod.assigned == seen.status.attempt or pod.attempt == seen.status.attempt
    recoveries = seen.status.recoveries
    began = seen.status.ready_time or (recoveries[-1].time if recoveries else None)
    if has_place or pod.ended is None or began is None:
        return False
    return (parse_time(began) - pod.ended).total_seconds() > REPLACED_SECONDS


def _is_permanent(seen: Observation, end: End) -> bool:
    """Whether an end that would come again ends the run: unless a rule says to try all the same."""
    matching = first_rule(seen, end)
    return matching is None or matching[1].action == "Fail"


def _went_along(end: End) -> bool:
    """Whether it only follows from another end, and its pod lives on: of all that were stopped, one was asked to by name."""
    return end.consequence and end.pod is not None and end.pod.wanted


def _end_of_pod(pod: Pod) -> End | None:
    if pod.exit_code == ExitCode.DONE:
        return None
    if pod.exit_code == ExitCode.PERMANENT:
        return _end(pod, pod.worker, pod.exit_code, pod.termination)
    if pod.disruption:
        cause = DISRUPTIONS.get(pod.disruption, Reason.EVICTED)
        return End(cause, f"pod {pod.name}: {pod.disruption}", pod, pod.ended, pod.exit_code, pod.termination)
    if pod.deleting is not None:
        text = f"pod {pod.name} was deleted"
        return End(Reason.POD_DELETED, text, pod, pod.ended, pod.exit_code, pod.termination)
    return None if pod.alive else _end_of_process(pod)


def _end_of_container(pod: Pod) -> End:
    """The end of the container before, of a pod that lives on: of some it is only known that they were killed."""
    was = pod.before or Ended(KILLED, "its container is started again", None, None)
    dead = replace(pod, exit_code=was.exit_code, exit_reason=was.reason, ended=was.time, termination=was.said)
    return replace(_end_of_process(dead), pod=pod)


def _end_of_process(pod: Pod) -> End:
    if pod.exit_reason == "OOMKilled":
        memory = f"pod {pod.name} ran out of memory; raise spec.resources.memory or lower microBatch"
        return End(Reason.OUT_OF_MEMORY, memory, pod, pod.ended, pod.exit_code, pod.termination)
    if pod.exit_code is None:
        return End(Reason.EVICTED, f"pod {pod.name}: {pod.exit_reason or 'failed'}", pod, pod.ended)
    return _end(pod, pod.worker, pod.exit_code, pod.termination)


def _end(pod: Pod | None, worker: int, code: int, said: Termination | None) -> End:
    """The end of a worker's ranks by their exit code, as their agent tells it or its pod shows it."""
    name = f"pod {pod.name}" if pod else f"worker {worker}"
    text = (said.message if said else "") or (pod.exit_reason if pod else "")
    at = parse_time(said.time) if said and said.time else pod.ended if pod else None
    if code == ExitCode.PERMANENT:
        return End(Reason.PERMANENT_ERROR, text, pod, at, code, said, permanent=True)
    if said and said.cause == "RolledBack":
        return End(Reason.ROLLED_BACK, text, pod, at, code, said)
    distance = CAUSE
    if code in (ExitCode.STOPPED, ExitCode.RETRY):
        distance = CONSEQUENCES.get(said.cause, CAUSE) if said else PEER_LOST
    if code == ExitCode.STOPPED:
        return End(Reason.EVICTED, f"{name} was stopped", pod, at, code, said, distance=distance)
    if said and said.cause in (Reason.PREFLIGHT_FAILED, Reason.OUT_OF_MEMORY):
        return End(Reason(said.cause), f"{name}: {text}", pod, at, code, said)
    return End(Reason.PROCESS_FAILED, f"{name}: exit code {code}: {text}", pod, at, code, said, distance=distance)
