"""What is decided about runs that are suspended, resumed, past their deadline, or over for long enough."""

from typing import Any

import pytest
from builders import NOW, UID, Case, a_run, ago, deleting, done, ended, pod, recovery
from expectations import Cases, becomes, check, does, grows_attempt, says, tells, unchanged
from trainyard_api.status import CheckpointStatus, Phase, Reason
from trainyard_operator.decide.decision import CreatePod, CreateSecret, DeletePod, DeleteRun
from trainyard_operator.decide.observation import format_time

SAVED = CheckpointStatus(step=57, uri="file:///storage/team/tiny/base/checkpoints/step-57", time=format_time(ago(1)))


def trains(**spec: Any) -> Case:
    """A run whose group of two trains."""
    return a_run(**spec).in_stage().with_pods(pod(0), pod(1)).training()


def suspended(stage: str | None = "base", **fields: Any) -> Case:
    """A run of which nothing lives, as its spec has asked."""
    case = a_run(**fields.pop("spec", {})).in_stage(phase=Phase.SUSPENDED, reason=Reason.SUSPENDED, **fields)
    return case if stage else Case(case.run, case.status.model_copy(update={"stage": None, "attempt": 0}))


SUSPENDING: Cases = {
    "a run that is to be suspended has its pods save and leave, with their own grace": (
        trains(suspend=True),
        (
            becomes(Phase.RUNNING, Reason.SUSPENDING, waiting=None),
            says("save and leave"),
            does(DeletePod, DeletePod),
            lambda d, _: {action.grace_seconds for action in d.actions} == {None},
        ),
    ),
    "pods that were told to leave are waited for, and what they save is shown": (
        trains(suspend=True).with_pods(deleting(pod(0), -30), deleting(pod(1), -30)).training(57, checkpoint=SAVED),
        (does(), becomes(Phase.RUNNING, Reason.SUSPENDING, checkpoint=SAVED), lambda d, _: d.look_again == 5),
    ),
    "once all pods have gone the run is suspended, at the step that was saved": (
        trains(suspend=True).in_stage(reason=Reason.SUSPENDING, checkpoint=SAVED).with_pods(),
        (
            becomes(Phase.SUSPENDED, Reason.SUSPENDED, checkpoint=SAVED, active_since=None, active_seconds=10.0),
            says("stage base", "step 57", "set it to false"),
            tells("Suspended", "step 57"),
            does(),
        ),
    ),
    "the last word of rank 0 is the end of its pod": (
        trains(suspend=True).in_stage(reason=Reason.SUSPENDING).with_pods(ended(20, 0, checkpoint=SAVED), ended(20, 1)),
        (becomes(Phase.SUSPENDED, Reason.SUSPENDED, checkpoint=SAVED), does()),
    ),
    "also if that pod went as it ended": (
        trains(suspend=True).in_stage(reason=Reason.SUSPENDING).with_pods().lost(ended(20, 0, checkpoint=SAVED)),
        (becomes(Phase.SUSPENDED, Reason.SUSPENDED, checkpoint=SAVED), says("step 57")),
    ),
    "but not what a pod of an earlier stage said": (
        trains(suspend=True).in_stage(reason=Reason.SUSPENDING).with_pods().lost(done(0, stage="corpus", attempt=1)),
        (becomes(Phase.SUSPENDED, Reason.SUSPENDED, checkpoint=None),),
    ),
    "a pod that does not go is left behind": (
        trains(suspend=True).in_stage(reason=Reason.SUSPENDING).with_pods(deleting(pod(0), 60)),
        (
            becomes(Phase.SUSPENDED, Reason.SUSPENDED),
            does(DeletePod),
            lambda d, _: d.actions[0].grace_seconds == 0,
        ),
    ),
    "a run that waits for room gives up its place": (
        a_run(suspend=True).in_stage(phase=Phase.QUEUED).with_pods(pod(0), pod(1, phase="Pending", node="")),
        (becomes(Phase.QUEUED, Reason.SUSPENDING), does(DeletePod, DeletePod)),
    ),
    "a run that is made suspended begins nothing": (
        a_run(suspend=True),
        (becomes(Phase.SUSPENDED, Reason.SUSPENDED, attempt=0, stage=None, start_time=None), does(), says("to begin")),
    ),
    "a stage that is done when its run is suspended is done": (
        trains(suspend=True).with_pods(done(0), done(1)),
        (grows_attempt("out", 3), becomes(Phase.PENDING, Reason.STAGE_PENDING)),
    ),
    "a run between two stages is suspended there": (
        a_run(suspend=True).in_stage("out", phase=Phase.PENDING, attempt=3).with_pods(done(0), done(1)),
        (becomes(Phase.SUSPENDED, Reason.SUSPENDED, attempt=3), does()),
    ),
    "what would fail again the same way has failed, suspended or not": (
        trains(suspend=True).with_pods(ended(10, 0, message="may not write", cause="PermanentError"), pod(1)),
        (becomes(Phase.FAILED, Reason.PERMANENT_ERROR), says("may not write")),
    ),
    "what fails while the pods leave is no failure": (
        trains(suspend=True).in_stage(reason=Reason.SUSPENDING).with_pods(ended(137, 0), deleting(pod(1), -30)),
        (becomes(Phase.RUNNING, Reason.SUSPENDING), lambda d, _: d.status.restarts.total == 0),
    ),
    "a recovery that was under way counts no time that the run is suspended: its attempt is taken for begun": (
        a_run(suspend=True).in_stage(phase=Phase.RECOVERING, recoveries=[recovery(Reason.PROCESS_FAILED)]),
        (becomes(Phase.SUSPENDED, Reason.SUSPENDED, attempt=3), lambda d, _: not d.actions),
    ),
    "a run that has ended is not suspended": (
        a_run(suspend=True).in_stage("out", phase=Phase.SUCCEEDED),
        (unchanged,),
    ),
    "a suspended run is left alone": (suspended(spec={"suspend": True}), (unchanged,)),
    "a pod that turns up of a suspended run goes": (
        suspended(spec={"suspend": True}).with_pods(pod(0)),
        (does(DeletePod), lambda d, before: d.status == before),
    ),
}

RESUMING: Cases = {
    "a resumed run goes on with the next attempt, written ahead, and counts nothing": (
        suspended(message="spec.suspend is true", active_seconds=3.5),
        (
            grows_attempt("base", 3),
            becomes(Phase.PENDING, Reason.STAGE_PENDING, message="", ready_time=None, active_seconds=3.5),
            lambda d, _: d.status.restarts.total == 0,
            tells("Resumed", "stage base", "attempt 3"),
        ),
    ),
    "all of its group is made anew": (
        a_run().in_stage(phase=Phase.PENDING, attempt=3).with_pods(ended(20, 0), ended(20, 1)),
        (does(CreateSecret, CreatePod, CreatePod),),
    ),
    "a run that was made suspended begins": (suspended(stage=None), (grows_attempt("corpus", 1),)),
    "one that is resumed while its pods leave waits until they have gone": (
        trains().in_stage(reason=Reason.SUSPENDING).with_pods(deleting(pod(0), -30), deleting(pod(1), -30)),
        (becomes(Phase.RUNNING, Reason.SUSPENDING), does()),
    ),
    "the time suspended is no part of a recovery's clocks": (
        a_run()
        .in_stage(phase=Phase.STARTING, attempt=4, recoveries=[recovery(Reason.PROCESS_FAILED)])
        .with_pods(pod(0, attempt=4), pod(1, attempt=4))
        .training(attempt=4),
        (becomes(Phase.RUNNING, Reason.TRAINING), lambda d, _: d.status.recoveries[-1].reform_seconds is None),
    ),
}

DEADLINE: Cases = {
    "a run without a deadline is never stopped by one": (
        trains().in_stage(active_seconds=1e9),
        (becomes(Phase.RUNNING, Reason.TRAINING), does()),
    ),
    "a run within its deadline trains on": (
        trains(activeDeadlineSeconds=60).in_stage(active_seconds=49),
        (becomes(Phase.RUNNING, Reason.TRAINING), does()),
    ),
    "past its deadline its pods save and leave, with their own grace": (
        trains(activeDeadlineSeconds=60).in_stage(active_seconds=50),
        (
            becomes(Phase.RUNNING, Reason.DEADLINE_EXCEEDED),
            does(DeletePod, DeletePod),
            lambda d, _: {action.grace_seconds for action in d.actions} == {None},
        ),
    ),
    "when they have gone the run has failed, with what they saved and the remedy": (
        trains(activeDeadlineSeconds=60).in_stage(active_seconds=50).with_pods(ended(20, 0, checkpoint=SAVED)),
        (
            becomes(Phase.FAILED, Reason.DEADLINE_EXCEEDED, checkpoint=SAVED, active_seconds=60.0, active_since=None),
            says("activeDeadlineSeconds = 60", "last checkpoint"),
            lambda d, _: d.status.restarts.total == 0,
        ),
    ),
    "time spent waiting for room does not count": (
        a_run(activeDeadlineSeconds=60)
        .in_stage(phase=Phase.QUEUED, active_seconds=50, start_time=format_time(ago(1000)))
        .with_pods(pod(0), pod(1, phase="Pending", node="")),
        (lambda d, _: d.status.phase == Phase.QUEUED, does()),
    ),
    "time spent suspended does not count": (
        suspended(spec={"activeDeadlineSeconds": 60}, active_seconds=50, start_time=format_time(ago(1000))),
        (becomes(Phase.PENDING, Reason.STAGE_PENDING, active_seconds=50),),
    ),
    "the clock runs from the moment at which all of the group run": (
        a_run().in_stage(phase=Phase.PENDING, active_seconds=50).with_pods(pod(0), pod(1)).idle_agent(),
        (becomes(Phase.STARTING, Reason.WAITING_FOR_AGENTS, active_since=format_time(NOW), active_seconds=50),),
    ),
    "and stands still when an attempt has ended": (
        trains().in_stage(active_seconds=50).with_pods(ended(137, 0), pod(1)),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED, active_since=None, active_seconds=60.0),),
    ),
    "a stage that is done at its run's deadline is done": (
        trains(activeDeadlineSeconds=60).in_stage(active_seconds=50).with_pods(done(0), done(1)),
        (grows_attempt("out", 3),),
    ),
    "a deadline that is raised while the pods leave makes their going a deletion like any other": (
        trains(activeDeadlineSeconds=600)
        .in_stage(reason=Reason.DEADLINE_EXCEEDED, active_seconds=50)
        .with_pods(deleting(pod(0), -30), deleting(pod(1), -30)),
        (becomes(Phase.RECOVERING, Reason.POD_DELETED), lambda d, _: d.status.restarts.failures == 0),
    ),
}


def over(seconds: float, phase: Phase = Phase.SUCCEEDED, **spec: Any) -> Case:
    """A run that has ended so long ago."""
    return a_run(**spec).in_stage("out", phase=phase, end_time=format_time(ago(seconds)))


EXPIRING: Cases = {
    "a run without a time to live stays": (over(1e9), (unchanged, lambda d, _: d.look_again is None)),
    "a run is looked at again when its time is up": (
        over(40, ttlSecondsAfterFinished=100),
        (unchanged, lambda d, _: d.look_again == 60),
    ),
    "a run whose time is up is deleted, succeeded or failed": (
        over(100, Phase.FAILED, ttlSecondsAfterFinished=100),
        (does(DeleteRun),),
    ),
    "a run may go at once": (over(0, ttlSecondsAfterFinished=0), (does(DeleteRun),)),
    "what still saves of a run goes before it": (
        over(100, Phase.FAILED, ttlSecondsAfterFinished=0).with_pods(pod(0, "out")),
        (does(DeletePod),),
    ),
    "a run that goes on has no end to count from": (
        trains(ttlSecondsAfterFinished=0),
        (becomes(Phase.RUNNING, Reason.TRAINING), does()),
    ),
    "a run whose spec can't be read stays": (
        Case({"metadata": {"name": "tiny", "namespace": "team", "uid": UID, "generation": 1}}, over(9).status),
        (unchanged,),
    ),
}

CHANGED = {"metadata": {**a_run().run["metadata"], "generation": 4}}

OBSERVING: Cases = {
    f"a spec that was changed is seen to have been seen, also by {what}": (
        Case({**case.run, **CHANGED}, case.status, case.pods, case.agent, case.agent_changed, case.assigned),
        (lambda d, before: d.status == before.model_copy(update={"observed_generation": 4, **conditions(d)}),),
    )
    for what, case in {
        "a run that has ended": over(40),
        "a suspended one": suspended(spec={"suspend": True}),
        "one that was written a moment ago": trains().in_stage(
            progress={"step": 49, "steps": 100, "heartbeatTime": format_time(ago(2))}
        ),
    }.items()
}


def conditions(decision: Any) -> dict[str, Any]:
    """The conditions as decided: they hold the generation too."""
    assert [each.observed_generation for each in decision.status.conditions] == [4]
    return {"conditions": decision.status.conditions}


CASES = SUSPENDING | RESUMING | DEADLINE | EXPIRING | OBSERVING


@pytest.mark.parametrize("name", CASES)
def test_life_cycle(name: str) -> None:
    check(*CASES[name])
