"""While ranks run: progress and checkpoints go into status, every few seconds at most, more seldom where many runs train, and
recoveries get their clocks.
"""

from trainyard_api.protocol import AgentState
from trainyard_api.status import Phase, Progress, Reason, Recovery

from .decision import Decision, Event, change, nothing, shown
from .observation import Observation, format_time
from .straggling import described, slow_ranks, told_of

LOOK_SECONDS = 5.0
LOOK_AT_SILENCE_SECONDS = 0.5
"""While an agent does not answer."""


def running(seen: Observation) -> Decision | None:
    """Bring what the agent of rank 0 says into the status."""
    agent = seen.agent
    silent = any(pod.silent_since for pod in seen.group.values())
    look_again = LOOK_AT_SILENCE_SECONDS if silent else LOOK_SECONDS
    if agent is None:
        return nothing(seen, look_again)
    up = agent.resumed_step is not None or agent.progress is not None
    progress = shown(agent.progress) if agent.progress else seen.status.progress
    if progress and seen.agent_changed:
        progress = progress.model_copy(update={"heartbeat_time": format_time(seen.agent_changed)})
    slow = slow_ranks(seen)
    status = change(
        seen,
        phase=Phase.RUNNING if up else Phase.STARTING,
        reason=_at(seen) if up else Reason.STARTING_RANKS,
        message="; ".join([*_said(progress), *map(described, slow)]),
        progress=progress,
        checkpoint=agent.checkpoint or seen.status.checkpoint,
        recoveries=_clocked(seen, agent) if up else seen.status.recoveries,
        workers=seen.status.workers.model_copy(
            update={"ready": sum(pod.phase == "Running" for pod in seen.group.values())}
        ),
        waiting=None,
        stragglers=slow,
    )
    if status == seen.status:
        return nothing(seen, look_again)
    before = seen.status.progress.heartbeat_time if seen.status.progress else None
    urgent = (status.phase, status.reason) != (seen.status.phase, seen.status.reason)
    if before and not urgent and 0 <= seen.seconds_since(before) < seen.progress_seconds:
        return nothing(seen, look_again=min(look_again, seen.progress_seconds - seen.seconds_since(before)))
    events = (*told_of(seen, slow), *_left_out(seen, progress))
    return Decision(status, look_again=look_again, events=events, routine=not urgent)


def _at(seen: Observation) -> Reason:
    """What its ranks do."""
    if seen.stage.kind == "collect":
        return Reason.COLLECTING_COMPARISONS
    return Reason.TRAINING if seen.stage.training else Reason.STAGE_RUNNING


def _said(progress: Progress | None) -> list[str]:
    return [progress.message] if progress and progress.message else []


def _left_out(seen: Observation, progress: Progress | None) -> tuple[Event, ...]:
    """That batches were left out since the last time; of several the last fault tells."""
    if progress is None or not progress.last_fault:
        return ()
    before = seen.status.progress.skipped_batches if seen.status.progress else None
    new = (progress.skipped_batches or 0) - (before or 0)
    if new <= 0:
        return ()
    text = (
        f"stage {seen.stage.name}: {new} more left out, {progress.skipped_batches} in all; last: {progress.last_fault}"
    )
    return (Event("Warning", "BatchSkipped", text),)


def _clocked(seen: Observation, agent: AgentState) -> tuple[Recovery, ...]:
    """The recoveries, the last one with its time to re-form and the steps that it costs, once these are known."""
    *earlier, last = seen.status.recoveries or (None,)
    if last is None or last.reform_seconds is not None or last.stage != seen.stage.name:
        return seen.status.recoveries
    if last.attempt != seen.status.attempt - 1:  # the run was suspended before it ran again
        return seen.status.recoveries
    resumed = agent.resumed_step
    if resumed is None and seen.stage.training:  # what it reports is of its inputs, on their way
        return seen.status.recoveries
    lost = max(0, last.step - resumed) if last.step is not None and resumed is not None else None
    update = {
        "reform_seconds": round(seen.seconds_since(last.time), 3),
        "resumed_step": resumed,
        "restored_from": agent.restored_from,
        "recomputed_steps": lost,
    }
    return tuple(entry for entry in (*earlier, last.model_copy(update=update)) if entry)
