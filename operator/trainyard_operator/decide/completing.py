"""A stage is done when every worker has ended with 0 and rank 0 has said what it made."""

from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import Termination
from trainyard_api.status import Phase, Reason, WorkersStatus

from .decision import Decision, Event, change, planned, shown, stage_status
from .observation import Observation, format_time


def completing(seen: Observation) -> Decision | None:
    """Record the stage's artifact; write ahead the next stage's attempt, or the end of the run."""
    group = seen.group
    if seen.between_attempts or len(group) < seen.workers:
        return None
    if any(pod.exit_code != ExitCode.DONE for pod in group.values()):
        return None
    said = group[0].termination or Termination(exit_code=0, cause="Done")
    now = format_time(seen.now)
    done = stage_status(seen, seen.stage.name).model_copy(
        update={
            "phase": "Succeeded",
            "artifact": said.artifact.uri if said.artifact else None,
            "digest": said.artifact.digest if said.artifact else None,
            "metrics": (said.artifact.metrics or None) if said.artifact else None,
            "end_time": now,
        }
    )
    stages = {stage.name: stage for stage in seen.status.stages} | {done.name: done}
    checkpoint = said.checkpoint or seen.status.checkpoint
    event = Event("Normal", "StageSucceeded", f"stage {done.name} is done: {done.artifact}")
    names = [stage.name for stage in seen.run.spec.stages]
    following = names[names.index(done.name) + 1 :]
    if not following:
        status = change(
            seen,
            phase=Phase.SUCCEEDED,
            reason=Reason.COMPLETED,
            message=f"all {len(names)} stages are done",
            stages=tuple(stages.values()),
            progress=shown(said.progress) if said.progress else seen.status.progress,
            checkpoint=checkpoint,
            workers=WorkersStatus(desired=seen.workers, ready=0),
            waiting=None,
            end_time=now,
        )
        return Decision(status, events=(event, Event("Normal", Reason.COMPLETED, status.message)))
    stage = next(stage for stage in seen.run.spec.stages if stage.name == following[0])
    stages[stage.name] = stages[stage.name].model_copy(
        update={"phase": "Running", "start_time": now, "plan": planned(seen.run.spec, stage)}
    )
    status = change(
        seen,
        phase=Phase.PENDING,
        reason=Reason.STAGE_PENDING,
        message="",
        stage=stage.name,
        attempt=seen.status.attempt + 1,
        placed_time=None,
        ready_time=None,
        stages=tuple(stages.values()),
        progress=None,
        checkpoint=checkpoint,
        workers=WorkersStatus(desired=seen.run.spec.stage_workers(stage)),
        waiting=None,
    )
    return Decision(status, look_again=0, events=(event,))
