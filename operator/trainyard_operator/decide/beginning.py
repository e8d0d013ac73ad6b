"""A run begins by writing down its stages and the first attempt: nothing is made before that is on record."""

from trainyard_api.status import Phase, Reason, StageStatus, WorkersStatus

from .decision import Decision, change, planned
from .observation import Observation, format_time


def beginning(seen: Observation) -> Decision | None:
    """Write ahead the first attempt of a new run."""
    if seen.status.stage is not None:
        return None
    first, *others = seen.run.spec.stages
    now = format_time(seen.now)
    status = change(
        seen,
        phase=Phase.PENDING,
        reason=Reason.STAGE_PENDING,
        message="",
        stage=first.name,
        attempt=seen.status.attempt + 1,
        start_time=now,
        stages=(
            StageStatus(name=first.name, phase="Running", start_time=now, plan=planned(seen.run.spec, first)),
            *(StageStatus(name=stage.name) for stage in others),
        ),
        workers=WorkersStatus(desired=seen.workers),
    )
    return Decision(status, look_again=0)
