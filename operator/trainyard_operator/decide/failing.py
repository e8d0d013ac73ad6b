"""An attempt that has ended badly, hangs or does not start is recovered, or ends the run if its budget is used up."""

from zlib import crc32

from trainyard_api.status import ExcludedNode, Failure, Phase, Reason, Recovery, Restarts

from .causes import PEER_LOST, SETTLE_SECONDS, SETTLE_SILENT_SECONDS, UNCOUNTED, End, ends
from .decision import Decision, DeletePod, Event, LookAt, change, fail, nothing, shown
from .hanging import hung, still_telling
from .in_place import backs_off
from .observation import GIVEN_UP, Observation, Pod, format_time, last_progress
from .placement import avoided
from .ruling import verdict
from .suspects import entered, in_force
from .tiers import tier_of

KEPT_RECOVERIES = 10
KEPT_LINES = 5
"""Of what a process wrote last, in each recovery: all of a status must stay below 1 MB."""
ANSWER_SECONDS = 90.0
"""An agent answers within a second of its start; on a cold node, imports have been seen to take 20. If it is the node that is
gone, Kubernetes takes 80 s to give up its pods.
"""
OUTLIVED_ANSWER_SECONDS = 10.0
"""Within less a kubelet finds that an agent does not answer: two probes fail in 5 s."""
LOOKED_SECONDS = 2.5
"""How long it counts that a pod was looked at: less than an end that is only a consequence waits for its cause."""
LOOKED_AT_ONCE = 16
GIVEN_UP_GRACE_SECONDS = 5
"""What a pod gets that is given up: there is nothing in it to save."""
UNPLACED_SECONDS = 300.0
"""How long pods of a group may hold nodes for one that has none; an autoscaler brings a node in 2 to 4 minutes."""
UNPULLABLE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


def failing(seen: Observation) -> Decision | None:
    """Turn the end of an attempt into a recovery on record, or into the end of the run."""
    end = next(iter(ends(seen)), None)
    if seen.between_attempts and not (end and end.permanent):
        return None
    if end and end.consequence and abs(seen.seconds_since(end.at)) < _settle_seconds(seen, end):
        return nothing(seen, look_again=0.5)
    if end is None and still_telling(seen):
        return nothing(seen, look_again=0.5)
    end = end or _kept_off_in_vain(seen) or _unplaced(seen) or _silent(seen) or hung(seen) or _not_started(seen)
    if end is None:
        return None
    if end.permanent:
        return fail(seen, end.cause, f"stage {seen.stage.name}: {end.message}")
    if unseen := _unseen(seen, end):
        return Decision(seen.status, tuple(LookAt(pod.manifest) for pod in unseen), look_again=0)
    return _recover(seen, end)


def _unseen(seen: Observation, end: End) -> list[Pod]:
    """Pods that may be gone without our having been told, which would be why the attempt has ended: a deletion, no failure."""
    if end.consequence:
        suspects = _untold(seen) if end.distance == PEER_LOST else [pod for pod in seen.group.values() if pod.wanted]
    else:
        silent = end.cause in (Reason.NODE_LOST, Reason.AGENT_SILENT)
        suspects = [end.pod] if silent and end.pod and end.pod.wanted else []
    return [pod for pod in suspects[:LOOKED_AT_ONCE] if not _just_looked_at(seen, pod)]


def _just_looked_at(seen: Observation, pod: Pod) -> bool:
    return pod.looked_at is not None and 0 <= seen.seconds_since(pod.looked_at) < LOOKED_SECONDS


def _settle_seconds(seen: Observation, end: End) -> float:
    """How long a consequence waits for its cause."""
    return SETTLE_SILENT_SECONDS if end.distance == PEER_LOST and _untold(seen) else SETTLE_SECONDS


def _untold(seen: Observation) -> list[Pod]:
    """Pods that should be there, of which nobody has said how their ranks fared."""
    fared = {peer.worker for peer in seen.peers if peer.phase in ("failed", "succeeded")}
    return [pod for worker, pod in seen.group.items() if pod.wanted and worker not in fared]


def _unplaced(seen: Observation) -> End | None:
    """Some of the group have nodes and others find no room: what those hold may be just what these, or other runs, lack.

    Two runs of which each waits for the other's nodes would do so for ever. They give theirs up after unequal times, for if
    both did so at once, both would begin again as they were.
    """
    why = seen.status.waiting
    stayed = any(pod.attempt < seen.status.attempt for pod in seen.group.values())
    holding = any(pod.node for pod in seen.group.values()) and seen.others_wait
    if (
        seen.status.phase != Phase.QUEUED
        or not (stayed or holding)
        or why is None
        or why.reason != Reason.WAITING_FOR_CAPACITY
    ):
        return None
    limit = UNPLACED_SECONDS if stayed else UNPLACED_SECONDS * (1 + _share(seen))
    if seen.silent_seconds(why.since) < limit:
        return None
    return End(Reason.WAITING_FOR_CAPACITY, f"{why.object} found no room in {limit:.0f} s: {why.message}")


def _share(seen: Observation) -> float:
    """From 0 to 1, another for each run and attempt."""
    return crc32(f"{seen.run.metadata.uid} {seen.status.attempt}".encode()) / 2**32


def _kept_off_in_vain(seen: Observation) -> End | None:
    """A pod that finds no room was made to keep off a node that is forgiven since, or was lost long ago: what a pod asks for
    can't be changed.
    """
    if seen.status.phase != Phase.QUEUED:
        return None
    waiting = [pod for pod in seen.group.values() if pod.unschedulable]
    nodes = {node for pod in waiting for node in pod.excluded} - set(avoided(seen))
    if not nodes:
        return None
    return End(
        Reason.WAITING_FOR_CAPACITY, f"{waiting[0].name} found no room, and may use {', '.join(sorted(nodes))} again"
    )


def _silent(seen: Observation) -> End | None:
    """A pod runs, and its agent has not taken its place: the pod is of no use.

    A kubelet that is there would say that an agent which has answered before does not: if it does not, the node is lost.
    """
    if seen.status.ready_time is None:
        return None
    silent = [pod for pod in seen.unassigned if _waited(seen, pod) >= _answer_seconds(seen, pod)]
    if not silent:
        return None
    pod = silent[0]
    text = f"pod {pod.name}: no answer from its agent in {_answer_seconds(seen, pod):.0f} s"
    if pod.node_unready or (_outlived(seen, pod) and not pod.container_unready):
        return End(Reason.NODE_LOST, f"{text}, nor word of that from node {pod.node}", pod, at=seen.now)
    return End(Reason.AGENT_SILENT, text, pod, at=seen.now)


def _waited(seen: Observation, pod: Pod) -> float:
    """How long an agent has been asked in vain, of the time that the group is complete. To take its place it is asked now and
    then: what the operator needs until it asks again is not the agent's.
    """
    complete = seen.silent_seconds(seen.status.ready_time)
    if pod.unanswered:
        first, last = pod.unanswered
        return min(complete, seen.silent_seconds(first) - seen.silent_seconds(last))
    return min(complete, seen.silent_seconds(pod.silent_since)) if pod.silent_since else 0.0


def _answer_seconds(seen: Observation, pod: Pod) -> float:
    """How long an agent may take to take its place: one that has had a place before need not start first."""
    return OUTLIVED_ANSWER_SECONDS if _outlived(seen, pod) or pod.node_unready else ANSWER_SECONDS


def _outlived(seen: Observation, pod: Pod) -> bool:
    """Whether its agent has had a place before."""
    return pod.attempt < seen.status.attempt and not pod.starts


def _not_started(seen: Observation) -> End | None:
    """The deadline to start after being placed."""
    limit, status = seen.run.spec.recovery.start_seconds, seen.status
    if status.phase not in (Phase.STARTING, Phase.RUNNING) or seen.agent is not None:
        return None
    if status.placed_time is None or seen.silent_seconds(status.placed_time) < limit:
        return None
    unpullable = status.waiting is not None and status.waiting.reason == Reason.IMAGE_PULL_FAILED
    if unpullable and status.waiting:
        return End(Reason.IMAGE_PULL_FAILED, status.waiting.message, permanent=True)
    return End(Reason.START_TIMEOUT, f"no rank started within startSeconds = {limit}", at=seen.now)


def _recover(seen: Observation, end: End) -> Decision:
    status, limits = seen.status, seen.run.spec.recovery
    progress = last_progress(seen)
    failures = (*_within_window(seen), _failure(seen, end))
    decided = verdict(seen, end, failures)
    if not decided.counts:
        failures = failures[:-1]
    restarts = _counted(status.restarts, end, counts=decided.counts)
    if decided.fails:
        return fail(seen, *decided.fails, restarts=restarts, failures=failures)
    if len(failures) > limits.max_failures:
        text = f"{len(failures)} failures within {limits.window_seconds} s, maxFailures = {limits.max_failures}; last: "
        return fail(seen, Reason.TOO_MANY_FAILURES, text + end.message, restarts=restarts, failures=failures)
    leaving = decided.excluded.node if decided.excluded else ""
    tier = tier_of(seen, end, leaving)
    entry = Recovery(
        time=format_time(seen.now),
        cause=end.cause,
        message=end.message,
        stage=seen.stage.name,
        attempt=status.attempt,
        pod=end.pod.name if end.pod else "",
        node=end.pod.node if end.pod else "",
        rank=end.said.rank if end.said else None,
        exit_code=end.exit_code,
        last_lines=tuple(end.said.last_lines[-KEPT_LINES:]) if end.said else (),
        stacks=end.stacks or None,
        tier=tier,
        counted=decided.counts,
        detect_seconds=round(max(0.0, seen.seconds_since(end.at)), 3) if end.at else None,
        step=progress.step if progress else None,
    )
    lost = [pod for pod in seen.group.values() if pod.wanted and _is_lost(end, pod)]
    left = {leaving, *(each.node for each in in_force(seen))} - {""}
    stay = [
        pod
        for pod in seen.group.values()
        if pod.wanted and pod not in lost and pod.node not in left and tier != "group" and not backs_off(pod)
    ]
    recovering = change(
        seen,
        phase=Phase.RECOVERING,
        reason=end.cause,
        message=end.message,
        progress=shown(progress) if progress else None,
        checkpoint=(seen.agent.checkpoint if seen.agent else None) or status.checkpoint,
        restarts=restarts,
        failures=failures,
        recoveries=(*status.recoveries, entry)[-KEPT_RECOVERIES:],
        excluded_nodes=entered(seen, decided.excluded),
        workers=status.workers.model_copy(update={"ready": len(stay)}),
        waiting=None,
    )
    deletes = tuple(DeletePod(pod.manifest, GIVEN_UP_GRACE_SECONDS) for pod in lost)
    events = (Event("Warning", end.cause, end.message), *_told(decided.excluded))
    return Decision(recovering, deletes, look_again=0, events=events)


def _is_lost(end: End, pod: Pod) -> bool:
    """Whether the pod is given up: its silence or its node has ended the attempt, or it is on the node that was lost."""
    if end.pod is None or end.cause not in GIVEN_UP:
        return False
    return pod is end.pod or (end.cause == Reason.NODE_LOST and pod.node == end.pod.node)


def _within_window(seen: Observation) -> tuple[Failure, ...]:
    """The failures that still count. None is ever dropped before its time, for the list ends the run before it is long."""
    window = seen.run.spec.recovery.window_seconds
    return tuple(each for each in seen.status.failures if seen.seconds_since(each.time) < window)


def _failure(seen: Observation, end: End) -> Failure:
    agent = seen.agent if seen.stage.training else None
    reached = agent.progress.step if agent and agent.progress else agent.resumed_step if agent else None
    return Failure(
        time=format_time(seen.now),
        cause=end.cause,
        stage=seen.stage.name,
        node=end.pod.node if end.pod else "",
        crashed=end.crashed and not end.consequence,
        step=reached,
    )


def _counted(before: Restarts, end: End, *, counts: bool) -> Restarts:
    rolled_back, hung = end.cause == Reason.ROLLED_BACK, end.cause in (Reason.HUNG, Reason.START_TIMEOUT)
    disruption = end.cause in UNCOUNTED and not rolled_back
    return Restarts(
        total=before.total + 1,
        failures=before.failures + (counts and not hung),
        disruptions=before.disruptions + disruption,
        hangs=before.hangs + (counts and hung),
        roll_backs=before.roll_backs + rolled_back,
        ignored=before.ignored + (not counts and not disruption and not rolled_back),
    )


def _told(excluded: ExcludedNode | None) -> tuple[Event, ...]:
    if excluded is None:
        return ()
    text = f"node {excluded.node} is kept off until {excluded.until} ({excluded.cause}): {excluded.message}"
    return (Event("Warning", "NodeExcluded", text),)
