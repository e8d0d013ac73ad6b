"""What is decided about a run, case by case: a sentence, what is seen, what must follow."""

from collections.abc import Callable
from typing import Any

import pytest
from builders import Case, a_run, ago, deleting, done, ended, pod
from trainyard_api.status import Phase, Quarantined, Reason, Status
from trainyard_operator.decide.decision import Assign, CreatePod, CreateSecret, Decision, DeletePod
from trainyard_operator.decide.observation import format_time

RUNNING = a_run().in_stage().with_pods(pod(0), pod(1)).training()
JUST_SHOWN = {"step": 49, "steps": 100, "heartbeatTime": format_time(ago(2))}
STARTED_LONG_AGO = format_time(ago(3600))


def recovery(cause: Reason, attempt: int = 2, **fields: object) -> dict[str, object]:
    return {"time": format_time(ago(2)), "cause": cause, "stage": "base", "attempt": attempt, **fields}


def lingering(seconds_ago: float) -> dict[str, Any]:
    """A pod whose trainer is done and which the kubelet still shows as running."""
    ended_pod = done(0, stage="out", seconds_ago=seconds_ago)
    return {**ended_pod, "status": {**ended_pod["status"], "phase": "Running"}}


def becomes(phase: Phase, reason: Reason, **fields: object) -> Callable[[Decision, Status], bool]:
    """The status gets this phase and reason, and each of the fields."""
    return lambda decision, _: (
        (decision.status.phase, decision.status.reason) == (phase, reason)
        and all(getattr(decision.status, name) == value for name, value in fields.items())
    )


def does(*kinds: type) -> Callable[[Decision, Status], bool]:
    """Exactly these actions, and the attempt does not grow with them."""
    return lambda decision, before: (
        [type(action) for action in decision.actions] == list(kinds) and decision.status.attempt == before.attempt
    )


def grows_attempt(stage: str, attempt: int) -> Callable[[Decision, Status], bool]:
    """The next attempt is written before anything of it is made."""
    return lambda decision, _: (
        (decision.status.stage, decision.status.attempt) == (stage, attempt)
        and not [a for a in decision.actions if isinstance(a, CreatePod | CreateSecret)]
    )


def says(*fragments: str) -> Callable[[Decision, Status], bool]:
    """The message has all of these in it."""
    return lambda decision, _: all(fragment in decision.status.message for fragment in fragments)


def tells(reason: str, *fragments: str) -> Callable[[Decision, Status], bool]:
    """One event, of this reason, with all of these in its message."""
    return lambda decision, _: (
        [event.reason for event in decision.events] == [reason]
        and all(fragment in decision.events[0].message for fragment in fragments)
    )


def quarantined(step: int) -> Quarantined:
    return Quarantined(step=step, reason="rank-00000.safetensors is missing", time=format_time(ago(3)))


def unchanged(decision: Decision, before: Status) -> bool:
    """Nothing is done and nothing is written."""
    return decision.status == before and not decision.actions


CASES: dict[str, tuple[Case, tuple[Callable[[Decision, Status], bool], ...]]] = {
    "a new run writes its first attempt ahead": (
        a_run(),
        (grows_attempt("corpus", 1), becomes(Phase.PENDING, Reason.STAGE_PENDING)),
    ),
    "a run with a mistake that admission let in fails before anything is made": (
        a_run(workers={"count": 3}),
        (becomes(Phase.FAILED, Reason.INVALID_SPEC), says("spec.stages[1].pretrain.globalBatch", "use 12"), does()),
    ),
    "a template that reaches into the node is refused by name": (
        a_run(template={"spec": {"hostNetwork": True, "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}),
        (
            becomes(Phase.FAILED, Reason.INVALID_SPEC),
            says("spec.template.spec.hostNetwork", "spec.template.spec.volumes[0].hostPath"),
        ),
    ),
    "prepare gets one pod, whatever the run's workers are": (
        a_run().in_stage("corpus", Phase.PENDING, attempt=1),
        (does(CreateSecret, CreatePod),),
    ),
    "a group is formed by making all its pods": (
        a_run().in_stage(phase=Phase.PENDING),
        (does(CreateSecret, CreatePod, CreatePod),),
    ),
    "an operator that died between two creates makes the missing pod only": (
        a_run().in_stage(phase=Phase.PENDING).with_pods(pod(1)),
        (does(CreateSecret, CreatePod),),
    ),
    "what the cluster won't have is asked for again, and the status has its words": (
        a_run().in_stage(phase=Phase.PENDING).refused("exceeded quota: team, requested: cpu=4"),
        (
            becomes(Phase.PENDING, Reason.POD_REFUSED),
            says("exceeded quota"),
            does(CreateSecret, CreatePod, CreatePod),
            lambda d, _: d.status.waiting.reason == Reason.POD_REFUSED,
        ),
    ),
    "a pod of another attempt is no part of the group": (
        a_run().in_stage(phase=Phase.PENDING, attempt=3).with_pods(pod(0, attempt=2), pod(1, attempt=2)),
        (does(CreateSecret, CreatePod, CreatePod),),
    ),
    "a pod without room queues the run, in the scheduler's words, with the field to change": (
        a_run()
        .in_stage(phase=Phase.PENDING)
        .with_pods(
            pod(0),
            pod(
                1,
                node="",
                phase="Pending",
                conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: insufficient cpu."}],
            ),
        ),
        (becomes(Phase.QUEUED, Reason.WAITING_FOR_CAPACITY), says("insufficient cpu", "spec.workers")),
    ),
    "an image that can't be pulled is named with its field": (
        a_run(image="nowhere/none:1")
        .in_stage(phase=Phase.QUEUED)
        .with_pods(
            pod(0),
            pod(
                1,
                phase="Pending",
                containerStatuses=[
                    {"name": "trainer", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
                ],
            ),
        ),
        (becomes(Phase.STARTING, Reason.IMAGE_PULL_FAILED), says("spec.image: nowhere/none:1")),
    ),
    "a Secret that isn't there is waited for, in the kubelet's words, with the field that names it": (
        a_run(storage={"uri": "s3://bucket/prefix", "secretName": "keys"})
        .in_stage(phase=Phase.QUEUED)
        .with_pods(
            pod(0),
            pod(
                1,
                phase="Pending",
                containerStatuses=[
                    {
                        "name": "trainer",
                        "state": {
                            "waiting": {"reason": "CreateContainerConfigError", "message": 'secret "keys" not found'}
                        },
                    }
                ],
            ),
        ),
        (
            becomes(Phase.STARTING, Reason.CONTAINER_NOT_STARTED),
            says('CreateContainerConfigError: secret "keys" not found', "spec.storage.secretName"),
        ),
    ),
    "no agent is assigned before rank 0's has answered": (
        a_run().in_stage(phase=Phase.STARTING).with_pods(pod(0), pod(1)),
        (becomes(Phase.STARTING, Reason.WAITING_FOR_AGENTS), does()),
    ),
    "all agents get their assignment when all of the group run": (
        a_run().in_stage(phase=Phase.STARTING).with_pods(pod(0), pod(1)).idle_agent(),
        (does(Assign, Assign), becomes(Phase.STARTING, Reason.STARTING_RANKS)),
    ),
    "progress is written": (
        RUNNING,
        (becomes(Phase.RUNNING, Reason.TRAINING), lambda d, _: d.status.progress.step == 50),
    ),
    "progress that follows a write by less than five seconds waits": (
        RUNNING.in_stage(progress=JUST_SHOWN),
        (unchanged, lambda d, _: d.look_again == 3.0),
    ),
    "a checkpoint that was set aside is put on record and told": (
        RUNNING.in_stage(progress=JUST_SHOWN).training(quarantined=[quarantined(40)]),
        (
            becomes(Phase.RUNNING, Reason.TRAINING, quarantined=(quarantined(40),)),
            tells("CheckpointQuarantined", "stage base: the checkpoint of step 40 is bad", "rank-00000.safetensors"),
            lambda d, _: d.look_again == 0,
        ),
    ),
    "what is on record of a checkpoint that was set aside is not told again": (
        RUNNING.in_stage(quarantined=[quarantined(40)]).training(quarantined=[quarantined(40)]),
        (lambda d, _: not d.events, lambda d, _: d.status.progress.step == 50),
    ),
    "of many checkpoints that were set aside the last five stay on record": (
        RUNNING.in_stage(progress=JUST_SHOWN, quarantined=[quarantined(99)]).training(
            quarantined=[quarantined(s) for s in range(80, 20, -10)]
        ),
        (
            lambda d, _: [each.step for each in d.status.quarantined] == [70, 60, 50, 40, 30],
            lambda d, _: len(d.events) == 5,
        ),
    ),
    "what an older attempt set aside was told when it ran": (
        RUNNING.in_stage(progress=JUST_SHOWN).training(attempt=1, quarantined=[quarantined(40)]),
        (unchanged,),
    ),
    "a killed rank is a failure, and the group is made anew": (
        RUNNING.with_pods(pod(0), ended(137, 1)),
        (
            becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),
            lambda d, _: (d.status.restarts.failures, d.status.recoveries[-1].exit_code) == (1, 137),
            lambda d, _: (d.status.recoveries[-1].detect_seconds, d.status.recoveries[-1].step) == (1.0, 50),
        ),
    ),
    "the first failure is told from its consequences": (
        RUNNING.with_pods(ended(30, 0, seconds_ago=1.2, cause="PeerLost"), ended(137, 1, seconds_ago=1.0)),
        (lambda d, _: d.status.recoveries[-1].pod == "tiny-base-1-2",),
    ),
    "a consequence waits for its cause to be seen": (
        RUNNING.with_pods(ended(30, 0, seconds_ago=0.2, cause="PeerLost"), pod(1)),
        (unchanged, lambda d, _: d.look_again == 0.5),
    ),
    "a consequence whose cause never shows is a failure all the same": (
        RUNNING.with_pods(ended(30, 0, seconds_ago=9, cause="PeerLost"), pod(1)),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "a deleted pod costs no failure": (
        RUNNING.with_pods(pod(0), deleting(pod(1))),
        (
            becomes(Phase.RECOVERING, Reason.POD_DELETED),
            lambda d, _: (d.status.restarts.failures, d.status.restarts.disruptions) == (0, 1),
        ),
    ),
    "a pod that has vanished was deleted": (
        RUNNING.with_pods(pod(0)),
        (becomes(Phase.RECOVERING, Reason.POD_DELETED), says("tiny-base-1-2")),
    ),
    "an evicted pod is a disruption, with its own word": (
        RUNNING.with_pods(
            pod(0),
            deleting(
                pod(1, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}])
            ),
        ),
        (becomes(Phase.RECOVERING, Reason.EVICTED), lambda d, _: not d.status.recoveries[-1].counted),
    ),
    "out of memory says so": (
        RUNNING.with_pods(pod(0), ended(137, 1, reason="OOMKilled")),
        (becomes(Phase.RECOVERING, Reason.OUT_OF_MEMORY), says("spec.resources.memory")),
    ),
    "an error that would come again ends the run with its message": (
        RUNNING.with_pods(
            ended(10, 0, cause="PermanentError", message="prepare.sources[0].path: no such file"), pod(1)
        ),
        (becomes(Phase.FAILED, Reason.PERMANENT_ERROR), says("prepare.sources[0].path: no such file")),
    ),
    "the failure that is one too many ends the run": (
        a_run(recovery={"maxFailures": 1})
        .in_stage(failure_times=(format_time(ago(100)),))
        .with_pods(pod(0), ended(1, 1))
        .training(),
        (becomes(Phase.FAILED, Reason.TOO_MANY_FAILURES), says("2 failures", "maxFailures = 1")),
    ),
    "failures from before the window are forgiven": (
        a_run(recovery={"maxFailures": 1, "windowSeconds": 60})
        .in_stage(failure_times=(format_time(ago(100)),))
        .with_pods(pod(0), ended(1, 1))
        .training(),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "silence for hangSeconds is a hang": (
        a_run(recovery={"hangSeconds": 60}).in_stage().with_pods(pod(0), pod(1)).training(changed=61),
        (becomes(Phase.RECOVERING, Reason.HUNG), lambda d, _: d.status.restarts.hangs == 1),
    ),
    "ranks that do not start within startSeconds are given up": (
        a_run().in_stage(phase=Phase.STARTING, placed_time=STARTED_LONG_AGO).with_pods(pod(0), pod(1)),
        (becomes(Phase.RECOVERING, Reason.START_TIMEOUT),),
    ),
    "after a failure the survivors get seconds": (
        a_run()
        .in_stage(phase=Phase.RECOVERING, recoveries=[recovery(Reason.PROCESS_FAILED)])
        .with_pods(pod(0), ended(1, 1)),
        (does(DeletePod), lambda d, _: d.actions[0].grace_seconds == 5),
    ),
    "after a disruption the survivors keep their grace period, to save": (
        a_run()
        .in_stage(phase=Phase.RECOVERING, recoveries=[recovery(Reason.EVICTED)])
        .with_pods(pod(0), deleting(pod(1))),
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
    "the clocks of a recovery are filled in once ranks run": (
        a_run()
        .in_stage(phase=Phase.STARTING, attempt=3, recoveries=[recovery(Reason.EVICTED, step=57)])
        .with_pods(pod(0, attempt=3), pod(1, attempt=3))
        .training(step=51, attempt=3, resumed_step=50),
        (
            becomes(Phase.RUNNING, Reason.TRAINING),
            lambda d, _: (d.status.recoveries[-1].reform_seconds, d.status.recoveries[-1].recomputed_steps) == (2.0, 7),
        ),
    ),
    "a stage is not done before all its workers are": (
        RUNNING.with_pods(done(0), pod(1)),
        (lambda d, _: d.status.stage == "base" and d.status.phase == Phase.RUNNING,),
    ),
    "a stage that is done hands over to the next, written ahead": (
        RUNNING.with_pods(done(0), done(1)),
        (
            grows_attempt("out", 3),
            lambda d, _: d.status.stages[1].digest == "d1" and d.status.stages[1].metrics == {"loss": 2.5},
        ),
    ),
    "the last stage ends the run": (
        a_run().in_stage("out", attempt=3).with_pods(done(0, stage="out", attempt=3)).training(attempt=3),
        (
            becomes(Phase.SUCCEEDED, Reason.COMPLETED),
            lambda d, _: (d.status.conditions[0].type, d.status.conditions[0].status) == ("Succeeded", "True"),
        ),
    ),
    "a failed run loses its live pods and keeps its ended ones": (
        a_run().in_stage(phase=Phase.FAILED).with_pods(pod(0), ended(10, 1)),
        (does(DeletePod),),
    ),
    "a trainer that has just ended leaves its pod time to end, for its logs": (
        a_run().in_stage("out", phase=Phase.SUCCEEDED).with_pods(lingering(1)),
        (unchanged, lambda d, _: d.look_again == 30),
    ),
    "a sidecar that never leaves is ended with the run": (
        a_run().in_stage("out", phase=Phase.SUCCEEDED).with_pods(lingering(60)),
        (does(DeletePod),),
    ),
    "a run that has ended is left alone": (
        a_run().in_stage("out", phase=Phase.SUCCEEDED).with_pods(done(0)),
        (unchanged,),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_policy(name: str) -> None:
    case, expectations = CASES[name]
    decision = case.decide()
    for expectation in expectations:
        assert expectation(decision, case.status), decision


def test_deciding_twice_changes_nothing_more() -> None:
    """A status that was just decided is a fixed point: the same observation with it writes nothing."""
    for name, (case, _) in CASES.items():
        decision = case.decide()
        if decision.status.attempt != case.status.attempt or decision.status.phase == Phase.RECOVERING:
            continue  # the next pass goes on from there
        from dataclasses import replace

        again = replace(case, status=decision.status).decide()
        assert again.status == decision.status, name
