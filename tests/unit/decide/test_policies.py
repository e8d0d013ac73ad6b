"""What is decided about a run, case by case: a sentence, what is seen, what must follow."""

from dataclasses import replace
from typing import Any

import pytest
from builders import NOW, a_run, ago, done, ended, pod
from expectations import Cases, becomes, check, does, grows_attempt, says, tells, unchanged
from trainyard_api.protocol import PeerState
from trainyard_api.status import Phase, Progress, Quarantined, Reason
from trainyard_operator.decide.decision import Assign, CreatePod, CreateSecret, DeletePod
from trainyard_operator.decide.observation import format_time

RUNNING = a_run().in_stage().with_pods(pod(0), pod(1)).training()
JUST_SHOWN = {"step": 49, "steps": 100, "heartbeatTime": format_time(ago(2))}


def lingering(seconds_ago: float) -> dict[str, Any]:
    """A pod whose trainer is done and which the kubelet still shows as running."""
    ended_pod = done(0, stage="out", seconds_ago=seconds_ago)
    return {**ended_pod, "status": {**ended_pod["status"], "phase": "Running"}}


def left_out(count: int, step: int = 50) -> Progress:
    """Progress of a stage that has left batches out."""
    return Progress(step=step, steps=100, skipped_batches=count, last_fault="step 7, sequences 48–55: loss nan")


def quarantined(step: int) -> Quarantined:
    return Quarantined(step=step, reason="rank-00000.safetensors is missing", time=format_time(ago(3)))


CASES: Cases = {
    "a new run writes its first attempt ahead": (
        a_run(),
        (grows_attempt("corpus", 1), becomes(Phase.PENDING, Reason.STAGE_PENDING)),
    ),
    "a run with a mistake that admission let in fails before anything is made": (
        a_run(workers={"count": 5}),
        (becomes(Phase.FAILED, Reason.INVALID_SPEC), says("spec.stages[1].pretrain.globalBatch", "use 20"), does()),
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
    "a pod of another stage is no part of the group": (
        a_run().in_stage(phase=Phase.PENDING).with_pods(*(done(each, stage="corpus", attempt=1) for each in (0, 1))),
        (does(CreateSecret, CreatePod, CreatePod),),
    ),
    "a pod that comes up after another has taken its place goes: its request was on its way for long": (
        a_run().in_stage(attempt=3).with_pods(pod(0, attempt=3), pod(1), pod(0)).training(attempt=3),
        (does(DeletePod), lambda d, _: d.actions[0].pod["metadata"]["name"] == "tiny-base-0-2"),
    ),
    "so does one of a stage that is over": (
        a_run().in_stage().with_pods(pod(0), pod(1), pod(0, "corpus", attempt=1)).training(),
        (does(DeletePod), lambda d, _: d.actions[0].pod["metadata"]["name"] == "tiny-corpus-0-1"),
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
    "that all of a group run is on record before any agent gets its place": (
        a_run().in_stage(phase=Phase.PENDING).with_pods(pod(0), pod(1)).idle_agent(),
        (becomes(Phase.STARTING, Reason.WAITING_FOR_AGENTS, ready_time=format_time(NOW)), does()),
    ),
    "no agent is assigned before rank 0's has answered": (
        a_run().in_stage(phase=Phase.STARTING, reason=Reason.WAITING_FOR_AGENTS).with_pods(pod(0), pod(1)),
        (becomes(Phase.STARTING, Reason.WAITING_FOR_AGENTS), does()),
    ),
    "all agents get their assignment, with the addresses of all, when all of the group run": (
        a_run().in_stage(phase=Phase.STARTING, reason=Reason.WAITING_FOR_AGENTS).with_pods(pod(0), pod(1)).idle_agent(),
        (
            does(Assign, Assign),
            becomes(Phase.STARTING, Reason.STARTING_RANKS),
            lambda d, _: [a.assignment.worker for a in d.actions] == [0, 1],
            lambda d, _: d.actions[1].assignment.master_address == "10.0.0.1",
            lambda d, _: d.actions[0].assignment.addresses == ["10.0.0.1", "10.0.0.2"],
        ),
    ),
    "an operator that was restarted says it again to those of whom nothing is heard": (
        replace(RUNNING.training(), assigned=False),
        (does(Assign), lambda d, _: d.actions[0].assignment.worker == 1),
    ),
    "an operator that was restarted hears from the agent of rank 0 who has its place": (
        replace(RUNNING.training(peers=[PeerState(worker=1, attempt=2, phase="running")]), assigned=False),
        (does(), becomes(Phase.RUNNING, Reason.TRAINING)),
    ),
    "progress is written": (
        RUNNING,
        (becomes(Phase.RUNNING, Reason.TRAINING), lambda d, _: d.status.progress.step == 50),
    ),
    "progress that follows a write by less than five seconds waits": (
        RUNNING.in_stage(progress=JUST_SHOWN),
        (unchanged, lambda d, _: d.look_again == 3.0),
    ),
    "progress is written after all that runs wait for": (
        RUNNING.in_stage(progress={**JUST_SHOWN, "heartbeatTime": format_time(ago(6))}),
        (becomes(Phase.RUNNING, Reason.TRAINING), lambda d, _: d.routine),
    ),
    "the same progress waits where a thousand runs train": (
        RUNNING.in_stage(progress={**JUST_SHOWN, "heartbeatTime": format_time(ago(38))}).among(1000),
        (unchanged, lambda d, _: d.look_again == 2.0),
    ),
    "even there it is written in the end": (
        RUNNING.in_stage(progress={**JUST_SHOWN, "heartbeatTime": format_time(ago(41))}).among(1000),
        (lambda d, _: d.status.progress.step == 50, lambda d, _: d.routine),
    ),
    "that ranks are up waits for nobody's progress": (
        RUNNING.in_stage(phase=Phase.STARTING, progress=JUST_SHOWN).among(1000),
        (becomes(Phase.RUNNING, Reason.TRAINING), lambda d, _: not d.routine),
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
    "batches that were left out are told with the progress": (
        RUNNING.training(progress=left_out(3)),
        (tells("BatchSkipped", "stage base: 3 more left out, 3 in all; last: step 7, sequences 48–55: loss nan"),),
    ),
    "batches that were told are not told again": (
        RUNNING.in_stage(progress=left_out(3)).training(progress=left_out(3, step=51)),
        (lambda d, _: d.status.progress.step == 51 and not d.events,),
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
    check(*CASES[name])


WAITING_FOR_NODE = {"phase": "Pending", "podIP": ""}
ASKED = {
    "agent 0, which hears from the others": ((pod(0), pod(1), pod(2)), [0]),
    "all that are left once it has left with its work done, for nobody hears from them any more": (
        (done(0), pod(1), pod(2)),
        [1, 2],
    ),
    "the first that runs while it does not yet": ((pod(0, **WAITING_FOR_NODE), pod(1), pod(2)), [1]),
}


@pytest.mark.parametrize(("pods", "workers"), ASKED.values(), ids=ASKED)
def test_asked_is(pods: tuple[dict[str, Any], ...], workers: list[int]) -> None:
    seen = a_run(workers={"count": 3}).in_stage().with_pods(*pods).seen()
    assert [each.worker for each in seen.speakers] == workers
