"""What a policy may decide: typed actions, the next status, and when to look again."""

from dataclasses import dataclass

from trainyard_api.planning import plan_of
from trainyard_api.protocol import Assignment
from trainyard_api.run import Spec, Stage
from trainyard_api.status import Condition, Phase, PlanStatus, Progress, Reason, StageStatus, Status

from ..cluster.protocol import Manifest
from .active import clocked
from .observation import Observation, format_time


@dataclass(frozen=True)
class CreateSecret:
    """Make the Secret that holds the agents' token; the executor fills the token in."""

    manifest: Manifest


@dataclass(frozen=True)
class CreatePod:
    """Make a pod of the current attempt."""

    manifest: Manifest


@dataclass(frozen=True)
class CreateWay:
    """Make a Service or an Ingress, the way to what a stage serves."""

    manifest: Manifest


@dataclass(frozen=True)
class DeletePod:
    """Delete a pod; its own grace period applies where none is given."""

    pod: Manifest
    grace_seconds: int | None = None


@dataclass(frozen=True)
class LookAt:
    """See whether a pod is still there, and as it was: a watch that broke would not have told."""

    pod: Manifest


@dataclass(frozen=True)
class Assign:
    """Give a pod's agent its place in the group."""

    pod: Manifest
    assignment: Assignment


@dataclass(frozen=True)
class DeleteRun:
    """Delete the run itself; all that it owns goes with it."""


Action = CreateSecret | CreatePod | CreateWay | DeletePod | LookAt | Assign | DeleteRun


@dataclass(frozen=True)
class Event:
    """A Kubernetes event, posted once the status that it belongs to is written."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """Actions are performed first, then the status is written if it differs, then events are posted.

    A status whose attempt has grown comes without anything made: it must be on record before that attempt has a pod.
    """

    status: Status
    actions: tuple[Action, ...] = ()
    look_again: float | None = None
    """Seconds after which time alone may change the decision."""
    events: tuple[Event, ...] = ()
    routine: bool = False
    """The status brings news of progress alone: it may be written after all that runs wait for."""


def nothing(seen: Observation, look_again: float | None = None) -> Decision:
    """Leave everything as it is."""
    return Decision(seen.status, look_again=look_again)


def change(seen: Observation, **fields: object) -> Status:
    """The status with some fields changed, in step with the spec's generation, its clock and the Succeeded condition."""
    generation = seen.run.metadata.generation
    status = clocked(seen.status.model_copy(update={"observed_generation": generation, **fields}), seen.now)
    return status.model_copy(update={"conditions": (_succeeded(seen, status),)})


def _succeeded(seen: Observation, status: Status) -> Condition:
    state = {Phase.SUCCEEDED: "True", Phase.FAILED: "False"}.get(status.phase, "Unknown")
    before = seen.status.conditions[0] if seen.status.conditions else None
    same = before is not None and before.status == state
    return Condition.model_validate(
        {
            "type": "Succeeded",
            "status": state,
            "reason": status.reason,
            "message": status.message,
            "lastTransitionTime": before.last_transition_time if before and same else format_time(seen.now),
            "observedGeneration": status.observed_generation,
        }
    )


def fail(seen: Observation, reason: Reason, message: str, **fields: object) -> Decision:
    """End the run as failed. Its live pods go in the next pass."""
    stages = tuple(
        stage.model_copy(update={"phase": "Failed", "end_time": format_time(seen.now)})
        if stage.name == seen.status.stage
        else stage
        for stage in seen.status.stages
    )
    status = change(
        seen,
        phase=Phase.FAILED,
        reason=reason,
        message=message,
        stages=stages,
        end_time=format_time(seen.now),
        waiting=None,
        **fields,
    )
    return Decision(status, events=(Event("Warning", reason, message),))


def shown(progress: Progress) -> Progress:
    """Progress as people read it: five significant digits. The full figures are in metrics.jsonl."""
    floats = {name: float(f"{value:.5g}") for name, value in progress if isinstance(value, float)}
    return progress.model_copy(update=floats)


def planned(spec: Spec, stage: Stage) -> PlanStatus | None:
    """What a stage that begins will take, where that can be known."""
    plan = plan_of(spec, stage)
    return plan.status() if plan else None


def stage_status(seen: Observation, name: str) -> StageStatus:
    """The status of one stage."""
    return next(stage for stage in seen.status.stages if stage.name == name)
