"""From the end of an attempt to ranks that run again: a sentence, what is seen, what must follow."""

import pytest
from builders import Case, a_run, ago, deleting, done, ended, pod, recovery
from expectations import Cases, Expectation, becomes, check, does, grows_attempt, unchanged
from trainyard_api.status import Phase, Reason
from trainyard_operator.decide.decision import Assign, CreatePod, CreateSecret, DeletePod
from trainyard_operator.decide.observation import format_time


def ended_by(tier: str, cause: Reason = Reason.PROCESS_FAILED) -> Case:
    """Attempt 2 has ended, and this much is to be made anew."""
    return a_run().in_stage(phase=Phase.RECOVERING, recoveries=[recovery(cause, tier=tier)])


def formed_after(tier: str) -> Case:
    """Attempt 3 is on record."""
    return a_run().in_stage(phase=Phase.RECOVERING, attempt=3, recoveries=[recovery(Reason.EVICTED, tier=tier)])


def makes(*names: str) -> Expectation:
    """These pods, and no others."""
    return lambda decision, _: (
        [a.manifest["metadata"]["name"] for a in decision.actions if isinstance(a, CreatePod)] == list(names)
    )


def deletes(*names: str) -> Expectation:
    """These pods, and no others."""
    return lambda decision, _: (
        [a.pod["metadata"]["name"] for a in decision.actions if isinstance(a, DeletePod)] == list(names)
    )


CASES: Cases = {
    "where ranks alone are made anew, the next attempt is written ahead at once and no pod goes": (
        ended_by("ranks").with_pods(pod(0), pod(1)),
        (grows_attempt("base", 3), deletes(), lambda d, _: (d.status.ready_time, d.status.workers.ready) == (None, 2)),
    ),
    "where a pod has died the others stay": (
        ended_by("pod").with_pods(pod(0), ended(137, 1)),
        (grows_attempt("base", 3), deletes(), lambda d, _: d.status.workers.ready == 1),
    ),
    "a pod that is going may save before the next attempt, and the others stay": (
        ended_by("pod", Reason.EVICTED).with_pods(pod(0), deleting(pod(1), -50)),
        (unchanged,),
    ),
    "a pod that is to be preempted and has not gone yet goes, with its grace period": (
        ended_by("pod", Reason.PREEMPTED).with_pods(
            pod(0),
            pod(1, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]),
        ),
        (does(DeletePod), deletes("tiny-base-1-2"), lambda d, _: d.actions[0].grace_seconds is None),
    ),
    "pods of an earlier stage do not stay": (
        ended_by("ranks").with_pods(pod(0), pod(1), pod(0, "corpus", attempt=1)),
        (does(DeletePod), deletes("tiny-corpus-0-1")),
    ),
    "where all of the group is made anew, after a failure those that live get seconds": (
        ended_by("group").with_pods(pod(0), ended(1, 1)),
        (does(DeletePod), lambda d, _: d.actions[0].grace_seconds == 5),
    ),
    "where all of the group is made anew, after a disruption those that live keep their grace period, to save": (
        ended_by("group", Reason.EVICTED).with_pods(pod(0), deleting(pod(1))),
        (does(DeletePod), lambda d, _: d.actions[0].grace_seconds is None),
    ),
    "the next attempt waits for the old one to end": (
        a_run().in_stage(phase=Phase.RECOVERING, recoveries=[recovery(Reason.EVICTED)]).with_pods(deleting(pod(0))),
        (unchanged,),
    ),
    "the next attempt is written ahead when the old one has ended": (
        a_run()
        .in_stage(phase=Phase.RECOVERING, recoveries=[recovery(Reason.EVICTED)])
        .with_pods(ended(20, 0), ended(20, 1)),
        (grows_attempt("base", 3),),
    ),
    "after attempts that got no further the next one waits, twice as long each time": (
        a_run().in_stage(
            phase=Phase.RECOVERING,
            attempt=4,
            recoveries=[
                recovery(Reason.PROCESS_FAILED, attempt, time=format_time(ago(past)), step=step)
                for attempt, past, step in ((1, 90, 10), (2, 32, 20), (3, 21, 20), (4, 0.5, 15))
            ],
        ),
        (unchanged, lambda d, _: d.look_again == 1.5),
    ),
    "a failure that a clock which was set back shows in the future is not waited for": (
        a_run().in_stage(
            phase=Phase.RECOVERING,
            attempt=3,
            recoveries=[
                recovery(Reason.PROCESS_FAILED, attempt, time=format_time(ago(past)), step=20)
                for attempt, past in ((1, 32), (2, 21), (3, -3600))
            ],
        ),
        (grows_attempt("base", 4),),
    ),
    "a kill from outside does not wait, whatever was killed before": (
        a_run().in_stage(
            phase=Phase.RECOVERING,
            attempt=3,
            recoveries=[recovery(Reason.PROCESS_FAILED, attempt, exit_code=137) for attempt in (1, 2, 3)],
        ),
        (grows_attempt("base", 4),),
    ),
    "a disruption does not wait, whatever failed before": (
        a_run().in_stage(
            phase=Phase.RECOVERING,
            attempt=3,
            recoveries=[
                recovery(Reason.PROCESS_FAILED, 1, time=format_time(ago(30))),
                recovery(Reason.PROCESS_FAILED, 2, time=format_time(ago(20))),
                recovery(Reason.EVICTED, 3, counted=False),
            ],
        ),
        (grows_attempt("base", 4),),
    ),
    "a pod that will not go is left behind": (
        a_run()
        .in_stage(phase=Phase.RECOVERING, recoveries=[recovery(Reason.NODE_LOST)])
        .with_pods(deleting(pod(0), seconds_ago=60)),
        (grows_attempt("base", 3), lambda d, _: d.actions == (DeletePod(d.actions[0].pod, 0),)),
    ),
    "the pods that are gone are made anew, under the new attempt's number": (
        formed_after("pod").with_pods(pod(0), ended(20, 1)),
        (does(CreateSecret, CreatePod), makes("tiny-base-1-3"), lambda d, b: d.status == b),
    ),
    "a pod whose work was done is made anew where others were not": (
        formed_after("pod").with_pods(done(0), pod(1)),
        (makes("tiny-base-0-3"),),
    ),
    "a pod that is left behind is not taken for one that stays": (
        formed_after("pod").with_pods(pod(0), deleting(pod(1), 60)),
        (makes("tiny-base-1-3"),),
    ),
    "of the pods of a worker the last one before is kept, for its log": (
        formed_after("pod").with_pods(pod(0), ended(137, 1, attempt=1), ended(137, 1)),
        (makes("tiny-base-1-3"), deletes("tiny-base-1-1")),
    ),
    "a pod that ends while the group is formed is one more to be made, and no failure": (
        formed_after("ranks").with_pods(ended(137, 0), pod(1)),
        (
            makes("tiny-base-0-3"),
            lambda d, _: d.status.recoveries[-1].tier == "pod",
            lambda d, _: d.status.restarts.total == 0,
        ),
    ),
    "a pod of the new attempt that ends at once is a failure": (
        formed_after("pod").with_pods(pod(0), ended(128, 1, attempt=3)),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED), lambda d, _: d.status.recoveries[-1].attempt == 3),
    ),
    "those that stay wait for those that are made anew": (
        formed_after("pod").with_pods(pod(0), pod(1, attempt=3, phase="Pending", node="")).idle_agent(attempt=2),
        (does(), becomes(Phase.QUEUED, Reason.WAITING_FOR_CAPACITY)),
    ),
    "all get their place in the new attempt, those that stayed and those that are new": (
        a_run()
        .in_stage(
            phase=Phase.STARTING,
            attempt=3,
            ready_time=format_time(ago(1)),
            recoveries=[recovery(Reason.EVICTED, tier="pod")],
        )
        .with_pods(pod(0), pod(1, attempt=3))
        .idle_agent(attempt=2),
        (does(Assign, Assign), lambda d, _: {a.assignment.attempt for a in d.actions} == {3}),
    ),
    "once the group was complete a pod that ends has ended the attempt, also one that has outlived others": (
        a_run()
        .in_stage(phase=Phase.STARTING, attempt=3, recoveries=[recovery(Reason.EVICTED, tier="pod")])
        .with_pods(ended(137, 0), pod(1, attempt=3)),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED), lambda d, _: d.status.recoveries[-1].pod == "tiny-base-0-2"),
    ),
    "the clocks of a recovery are filled in once ranks run": (
        a_run()
        .in_stage(phase=Phase.STARTING, attempt=3, recoveries=[recovery(Reason.EVICTED, step=57)])
        .with_pods(pod(0), pod(1, attempt=3))
        .training(step=51, attempt=3, resumed_step=50, restored_from="memory"),
        (
            becomes(Phase.RUNNING, Reason.TRAINING),
            lambda d, _: (d.status.recoveries[-1].reform_seconds, d.status.recoveries[-1].recomputed_steps) == (2.0, 7),
            lambda d, _: (
                (d.status.recoveries[-1].resumed_step, d.status.recoveries[-1].restored_from) == (50, "memory")
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_recovering(name: str) -> None:
    check(*CASES[name])
