"""An attempt that has ended badly, hangs or does not start is recovered, or ends the run if its budget is used up."""

from trainyard_api.status import Phase, Reason, Recovery, Restarts

from .causes import SETTLE_SECONDS, UNCOUNTED, End, ends
from .decision import Decision, Event, change, fail, nothing, shown
from .observation import Observation, format_time, later, parse_time

KEPT_RECOVERIES = 10
UNPULLABLE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


def failing(seen: Observation) -> Decision | None:
    """Turn the end of an attempt into a recovery on record, or into the end of the run."""
    if seen.between_attempts:
        return None
    whole = seen.status.phase in (Phase.QUEUED, Phase.STARTING, Phase.RUNNING)
    end = next(iter(ends(seen, whole)), None)
    if end and end.consequence and seen.seconds_since(end.at) < SETTLE_SECONDS:
        return nothing(seen, look_again=0.5)
    end = end or _too_slow(seen)
    if end is None:
        return None
    if end.permanent:
        return fail(seen, end.cause, f"stage {seen.stage.name}: {end.message}")
    return _recover(seen, end)


def _too_slow(seen: Observation) -> End | None:
    """Deadlines: to start after being placed, and between two signs of life."""
    recovery, status = seen.run.spec.recovery, seen.status
    if status.phase not in (Phase.STARTING, Phase.RUNNING):
        return None
    started = seen.agent is not None and seen.agent.attempt == status.attempt
    if not started:
        if seen.seconds_since(status.placed_time) < recovery.start_seconds:
            return None
        text = f"no rank started within startSeconds = {recovery.start_seconds}"
        unpullable = status.waiting is not None and status.waiting.reason == Reason.IMAGE_PULL_FAILED
        if unpullable and status.waiting:
            return End(Reason.IMAGE_PULL_FAILED, status.waiting.message, permanent=True)
        return End(Reason.START_TIMEOUT, text, at=seen.now)
    alive = later(seen.agent_changed, seen.watching_since)
    if seen.seconds_since(alive) < recovery.hang_seconds:
        return None
    return End(Reason.HUNG, f"no sign of life for hangSeconds = {recovery.hang_seconds}", at=seen.now)


def _recover(seen: Observation, end: End) -> Decision:
    status, limits = seen.status, seen.run.spec.recovery
    counted = end.cause not in UNCOUNTED
    now = format_time(seen.now)
    progress = shown(seen.agent.progress) if seen.agent and seen.agent.progress else status.progress
    entry = Recovery(
        time=now,
        cause=end.cause,
        message=end.message,
        stage=seen.stage.name,
        attempt=status.attempt,
        pod=end.pod_name,
        node=end.pod.node if end.pod else "",
        exit_code=end.pod.exit_code if end.pod else None,
        counted=counted,
        detect_seconds=round(max(0.0, seen.seconds_since(end.at)), 3) if end.at else None,
        step=progress.step if progress else None,
    )
    hung = end.cause in (Reason.HUNG, Reason.START_TIMEOUT)
    restarts = Restarts(
        total=status.restarts.total + 1,
        failures=status.restarts.failures + (counted and not hung),
        disruptions=status.restarts.disruptions + (not counted),
        hangs=status.restarts.hangs + hung,
    )
    within = [t for t in status.failure_times if seen.seconds_since(parse_time(t)) < limits.window_seconds]
    failure_times = tuple([*within, now] if counted else within)
    if len(failure_times) > limits.max_failures:
        text = f"{len(failure_times)} failures within {limits.window_seconds} s, maxFailures = {limits.max_failures}; last: "
        return fail(seen, Reason.TOO_MANY_FAILURES, text + end.message, restarts=restarts, failure_times=failure_times)
    recovering = change(
        seen,
        phase=Phase.RECOVERING,
        reason=end.cause,
        message=end.message,
        progress=progress,
        checkpoint=(seen.agent.checkpoint if seen.agent else None) or status.checkpoint,
        restarts=restarts,
        failure_times=failure_times,
        recoveries=(*status.recoveries, entry)[-KEPT_RECOVERIES:],
        workers=status.workers.model_copy(update={"ready": 0}),
        waiting=None,
    )
    return Decision(recovering, look_again=0, events=(Event("Warning", end.cause, end.message),))
