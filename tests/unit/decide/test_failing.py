"""How the end of an attempt is told, and what is made anew for it: a sentence, what is seen, what must follow."""

from typing import Any

import pytest
from builders import a_run, ago, deleting, done, ended, failure, peer, pod, recovery, say
from expectations import Cases, Expectation, becomes, check, does, says, unchanged
from trainyard_api.status import CheckpointStatus, Phase, Reason, Tier
from trainyard_operator.decide.decision import Assign, CreatePod, CreateSecret, DeletePod
from trainyard_operator.decide.observation import format_time

RUNNING = a_run().in_stage().with_pods(pod(0), pod(1)).training()
STARTED_LONG_AGO = format_time(ago(3600))
NO_ROOM: dict[str, Any] = {
    "phase": Phase.QUEUED,
    "attempt": 3,
    "waiting": {
        "reason": Reason.WAITING_FOR_CAPACITY,
        "message": "0/3 nodes",
        "object": "pod/tiny-base-1-3",
        "since": format_time(ago(301)),
    },
}


def no_room(seconds: float) -> dict[str, Any]:
    """For so long."""
    return NO_ROOM | {"waiting": NO_ROOM["waiting"] | {"since": format_time(ago(seconds))}}


def gave_up(seconds_ago: float) -> dict[str, object]:
    """A recovery from having found no room."""
    return recovery(Reason.WAITING_FOR_CAPACITY, attempt=3) | {"time": format_time(ago(seconds_ago))}


UNPLACED = pod(
    1,
    attempt=3,
    node="",
    phase="Pending",
    conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}],
)
STARTING = a_run().in_stage(phase=Phase.STARTING, ready_time=format_time(ago(91))).with_pods(pod(0), pod(1))
EVICTED = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]


def records(tier: Tier | None = None, **fields: object) -> Expectation:
    """The last recovery has these."""
    wanted = fields | ({"tier": tier} if tier else {})
    return lambda decision, _: {name: getattr(decision.status.recoveries[-1], name) for name in wanted} == wanted


def resumed(*steps: int | None, cause: Reason = Reason.PROCESS_FAILED) -> list[dict[str, object]]:
    """Recoveries whose next attempts resumed from these steps, the last one the attempt that runs now."""
    first = 6 - len(steps)
    return [recovery(cause, first + i, resumed_step=step) for i, step in enumerate(steps)]


def checkpoint(step: int, stage: str = "base") -> CheckpointStatus:
    return CheckpointStatus(step=step, uri=f"file:///storage/team/tiny/{stage}/checkpoints/step", time="")


def failed_again(recoveries: list[dict[str, object]], saved: CheckpointStatus | None = None, changed: float = 1):  # type: ignore[no-untyped-def]
    """Attempt 6 after these recoveries, in which a rank has just been killed."""
    run = a_run(recovery={"hangSeconds": 60}).in_stage(attempt=6, recoveries=recoveries, checkpoint=saved)
    return run.with_pods(pod(0, attempt=3), pod(1, attempt=5)).training(attempt=6, changed=changed)


CRASH = {"peers": [peer(1, 137, attempt=6)]}

CASES: Cases = {
    "a killed agent is a failure, and its pod alone is made anew": (
        RUNNING.with_pods(pod(0), ended(137, 1)),
        (
            becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),
            lambda d, _: d.status.restarts.failures == 1,
            records("pod", pod="tiny-base-1-2", exit_code=137, detect_seconds=1.0, step=50),
        ),
    ),
    "a killed rank is a failure, told by its agent, and ranks alone are made anew": (
        RUNNING.training(**say(137, "Killed", message="killed from outside", rank=0, last_lines=list("abcdefg"))),
        (
            becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),
            says("pod tiny-base-0-2: exit code 137: killed from outside"),
            records("ranks", pod="tiny-base-0-2", exit_code=137, rank=0, last_lines=tuple("cdefg"), node="node-a"),
            records(detect_seconds=1.0),
            does(),
        ),
    ),
    "a rank that the kernel killed for lack of memory is out of memory, though its pod lives on": (
        RUNNING.training(**say(137, "OutOfMemory", message="raise spec.resources.memory", rank=0)),
        (
            becomes(Phase.RECOVERING, Reason.OUT_OF_MEMORY),
            says("pod tiny-base-0-2: raise spec.resources.memory"),
            records("ranks", pod="tiny-base-0-2", exit_code=137, rank=0),
            does(),
        ),
    ),
    "a rank of another agent is told by the agent of rank 0": (
        RUNNING.training(peers=[peer(1, 1, message="ValueError", rank=1)]),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED), records("ranks", pod="tiny-base-1-2", rank=1, exit_code=1)),
    ),
    "a roll-back is a recovery that uses up no budget and waits for nothing": (
        RUNNING.training(**say(30, "RolledBack", message="step 51: loss nan; back to step 40 or before")),
        (
            becomes(Phase.RECOVERING, Reason.ROLLED_BACK),
            says("step 51: loss nan; back to step 40 or before"),
            records("ranks", counted=False),
            lambda d, _: (
                (d.status.restarts.roll_backs, d.status.restarts.failures, d.status.restarts.disruptions) == (1, 0, 0)
            ),
        ),
    ),
    "what an agent says of an older attempt is no end of this one": (
        RUNNING.training(attempt=1, peers=[peer(1, 137, attempt=1)], **say(30, "PeerLost", seconds_ago=20)),
        (unchanged,),
    ),
    "what an agent says of a peer in an older attempt is no end of this one": (
        RUNNING.training(peers=[peer(1, 137, attempt=1)]),
        (becomes(Phase.RUNNING, Reason.TRAINING),),
    ),
    "the first failure is told from its consequences": (
        RUNNING.with_pods(ended(30, 0, seconds_ago=1.2, cause="PeerLost"), ended(137, 1, seconds_ago=1.0)),
        (lambda d, _: d.status.recoveries[-1].pod == "tiny-base-1-2",),
    ),
    "the first failure is told from its consequences, whoever tells of them": (
        RUNNING.training(**say(30, "PeerLost", seconds_ago=2), peers=[peer(1, 134, seconds_ago=1)]),
        (records("ranks", pod="tiny-base-1-2", exit_code=134),),
    ),
    "a pod's own end comes before what its peers felt of it": (
        RUNNING.with_pods(pod(0), ended(137, 1, seconds_ago=0.5, reason="OOMKilled")).training(**say(30, "PeerLost")),
        (becomes(Phase.RECOVERING, Reason.OUT_OF_MEMORY), records("pod", pod="tiny-base-1-2")),
    ),
    "of two that crashed the first one was it": (
        RUNNING.training(peers=[peer(0, 1, seconds_ago=1), peer(1, 134, seconds_ago=2)]),
        (records(exit_code=134),),
    ),
    "a consequence waits for its cause to be seen": (
        RUNNING.with_pods(ended(30, 0, seconds_ago=0.2, cause="PeerLost"), pod(1)),
        (unchanged, lambda d, _: d.look_again == 0.5),
    ),
    "a consequence that an agent tells of waits for its cause as well": (
        RUNNING.training(**say(30, "PeerLost", seconds_ago=0.2)),
        (unchanged, lambda d, _: d.look_again == 0.5),
    ),
    "a consequence whose cause never shows is a failure all the same": (
        RUNNING.with_pods(ended(30, 0, seconds_ago=15, cause="PeerLost"), pod(1)),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "once all have told, a consequence waits no longer": (
        RUNNING.training(**say(30, "PeerLost", seconds_ago=4), peers=[peer(1, 30, "PeerLost", seconds_ago=4)]),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "an end that a clock which was set back shows in the future is decided about all the same": (
        RUNNING.with_pods(ended(30, 0, seconds_ago=-3600, cause="PeerLost"), pod(1)),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "a pod that was replaced is not what ended the attempt when its successor is gone": (
        RUNNING.with_pods(ended(137, 0, seconds_ago=60, attempt=1), pod(1)).not_told(0),
        (becomes(Phase.RECOVERING, Reason.POD_DELETED), records("pod", counted=False)),
    ),
    "nor is it while the group is not complete yet": (
        a_run()
        .in_stage(phase=Phase.QUEUED, ready_time=None, recoveries=[recovery(Reason.POD_DELETED, attempt=1)])
        .with_pods(ended(137, 0, seconds_ago=600, attempt=1), pod(1))
        .not_told(0),
        (becomes(Phase.RECOVERING, Reason.POD_DELETED), records("pod", counted=False)),
    ),
    "a stop whose cause never shows costs no failure": (
        RUNNING.training(**say(20, "Stopped", seconds_ago=11)),
        (becomes(Phase.RECOVERING, Reason.EVICTED), records("ranks", counted=False)),
    ),
    "of all that were stopped the one that left with its pod was it": (
        RUNNING.with_pods(pod(0), ended(20, 1, seconds_ago=5, cause="Stopped")).training(
            **say(20, "Stopped", seconds_ago=9)
        ),
        (records("pod", pod="tiny-base-1-2", counted=False),),
    ),
    "storage that failed is a cause, not a consequence": (
        RUNNING.training(**say(30, "StorageError", seconds_ago=0.2, message="no space")),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED), says("no space")),
    ),
    "a machine that its group found unfit is the cause, and named": (
        RUNNING.training(
            **say(30, "PeerLost", seconds_ago=2),
            peers=[peer(1, 30, "PreflightFailed", rank=1, message="storage: gone")],
        ),
        (
            becomes(Phase.RECOVERING, Reason.PREFLIGHT_FAILED),
            records("pod", pod="tiny-base-1-2", node="node-a", message="pod tiny-base-1-2: storage: gone"),
            does(DeletePod),
        ),
    ),
    "ranks that fail after rank 0's agent has left with its work done are told by the next agent": (
        a_run().in_stage().with_pods(done(0), pod(1, agent={**say(139), "attempt": 2})).training(),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED), records("pod", pod="tiny-base-1-2", exit_code=139)),
    ),
    "a deleted pod costs no failure": (
        RUNNING.with_pods(pod(0), deleting(pod(1))),
        (
            becomes(Phase.RECOVERING, Reason.POD_DELETED),
            lambda d, _: (d.status.restarts.failures, d.status.restarts.disruptions) == (0, 1),
            records("pod"),
        ),
    ),
    "a pod that has vanished was deleted": (
        RUNNING.with_pods(pod(0)),
        (becomes(Phase.RECOVERING, Reason.POD_DELETED), says("worker 1")),
    ),
    "an evicted pod is a disruption, with its own word": (
        RUNNING.with_pods(
            pod(0),
            deleting(pod(1, conditions=EVICTED)),
        ),
        (becomes(Phase.RECOVERING, Reason.EVICTED), lambda d, _: not d.status.recoveries[-1].counted),
    ),
    "a stop that all agreed on is told from the eviction that asked for it": (
        RUNNING.with_pods(pod(0), deleting(pod(1, conditions=EVICTED), -50)).training(**say(20, "Stopped")),
        (becomes(Phase.RECOVERING, Reason.EVICTED), records("pod", pod="tiny-base-1-2", counted=False)),
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
    "an error that would come again ends the run as soon as an agent tells of it": (
        RUNNING.training(**say(30, "PeerLost"), peers=[peer(1, 10, "PermanentError", message="loss is NaN")]),
        (becomes(Phase.FAILED, Reason.PERMANENT_ERROR), says("loss is NaN")),
    ),
    "an error that would come again ends the run even if a consequence was told first": (
        a_run()
        .in_stage(phase=Phase.RECOVERING, recoveries=[recovery(Reason.PROCESS_FAILED)])
        .with_pods(pod(0), ended(10, 1, cause="PermanentError", message="loss is NaN")),
        (becomes(Phase.FAILED, Reason.PERMANENT_ERROR), says("loss is NaN")),
    ),
    "the failure that is one too many ends the run": (
        a_run(recovery={"maxFailures": 1}).in_stage(failures=[failure(100)]).with_pods(pod(0), ended(1, 1)).training(),
        (becomes(Phase.FAILED, Reason.TOO_MANY_FAILURES), says("2 failures", "maxFailures = 1")),
    ),
    "each of maxFailures counts, however many recoveries the status keeps": (
        a_run(recovery={"maxFailures": 20})
        .in_stage(failures=[failure(90 - i) for i in range(20)])
        .with_pods(pod(0), ended(1, 1))
        .training(),
        (becomes(Phase.FAILED, Reason.TOO_MANY_FAILURES), says("21 failures", "maxFailures = 20")),
    ),
    "the window slides: a failure drops out of it when it is over for that one": (
        a_run(recovery={"maxFailures": 2, "windowSeconds": 60})
        .in_stage(failures=[failure(60), failure(59)])
        .with_pods(pod(0), ended(1, 1))
        .training(),
        (
            becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),
            lambda d, _: [each.time for each in d.status.failures] == [format_time(ago(59)), format_time(ago(0))],
        ),
    ),
    "failures from before the window are forgiven": (
        a_run(recovery={"maxFailures": 1, "windowSeconds": 60})
        .in_stage(failures=[failure(100)])
        .with_pods(pod(0), ended(1, 1))
        .training(),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "silence for longer than agents would take to tell of it is a hang": (
        a_run(recovery={"hangSeconds": 60}).in_stage().with_pods(pod(0), pod(1)).training(changed=121),
        (becomes(Phase.RECOVERING, Reason.HUNG), lambda d, _: d.status.restarts.hangs == 1, records("ranks")),
    ),
    "a second hang without a checkpoint between is not left to the same agents": (
        failed_again(resumed(20, cause=Reason.HUNG), checkpoint(20), changed=121),
        (becomes(Phase.RECOVERING, Reason.HUNG), records("group")),
    ),
    "ranks that do not start within startSeconds are given up, and all of the group with them": (
        a_run()
        .in_stage(phase=Phase.STARTING, placed_time=STARTED_LONG_AGO, ready_time=None)
        .with_pods(pod(0), pod(1, phase="Pending")),
        (becomes(Phase.RECOVERING, Reason.START_TIMEOUT), records("group")),
    ),
    "an agent that does not take its place is replaced with its pod": (
        STARTING.training(resumed_step=None, progress=None).not_told(1),
        (
            becomes(Phase.RECOVERING, Reason.AGENT_SILENT),
            records("pod", pod="tiny-base-1-2"),
            does(DeletePod),
            lambda d, _: d.actions[0].pod["metadata"]["name"] == "tiny-base-1-2",
        ),
    ),
    "an agent that has not taken its place yet is told again": (
        STARTING.in_stage(phase=Phase.STARTING).training(resumed_step=None, progress=None).not_told(1),
        (does(Assign), lambda d, _: d.actions[0].assignment.worker == 1),
    ),
    "also one that was told long ago, and not since: that is the operator's time, not the agent's": (
        STARTING.training(resumed_step=None, progress=None).not_told(1, last=90),
        (does(Assign), lambda d, _: d.actions[0].assignment.worker == 1),
    ),
    "those that stay give up their nodes when another finds none for long": (
        a_run().in_stage(**NO_ROOM).with_pods(pod(0), UNPLACED),
        (becomes(Phase.RECOVERING, Reason.WAITING_FOR_CAPACITY), records("group", counted=False), says("0/3 nodes")),
    ),
    "pods of a new group give up their nodes when others find none for long, and other runs wait as well": (
        a_run().in_stage(**no_room(601)).with_pods(pod(0, attempt=3), UNPLACED).where_others_wait(),
        (becomes(Phase.RECOVERING, Reason.WAITING_FOR_CAPACITY), records("group", counted=False)),
    ),
    "they do so not all at once": (
        a_run().in_stage(**no_room(301)).with_pods(pod(0, attempt=3), UNPLACED).where_others_wait(),
        (becomes(Phase.QUEUED, Reason.WAITING_FOR_CAPACITY), does()),
    ),
    "what is given up is left to others for a while": (
        a_run().in_stage(phase=Phase.RECOVERING, attempt=4, recoveries=[gave_up(5)]).where_others_wait(),
        (does(),),
    ),
    "then nodes are asked for again": (
        a_run().in_stage(phase=Phase.RECOVERING, attempt=4, recoveries=[gave_up(16)]).where_others_wait(),
        (does(CreateSecret, CreatePod, CreatePod),),
    ),
    "where no other run waits they are kept": (
        a_run().in_stage(**NO_ROOM).with_pods(pod(0, attempt=3), UNPLACED),
        (becomes(Phase.QUEUED, Reason.WAITING_FOR_CAPACITY), does()),
    ),
    "pods that outlive an attempt are part of the group of the next": (
        failed_again(resumed(20), checkpoint(40)).training(attempt=6, **CRASH),
        (records("ranks", attempt=6, pod="tiny-base-1-5"),),
    ),
    "one recovery that has helped to nothing is no reason to make all anew": (
        failed_again(resumed(20), checkpoint(20)).training(attempt=6, **CRASH),
        (records("ranks"),),
    ),
    "after two recoveries that have helped to nothing all of the group is made anew": (
        failed_again(resumed(20, 20), checkpoint(20)).training(attempt=6, **CRASH),
        (records("group"), lambda d, _: d.status.workers.ready == 0),
    ),
    "ranks that never came up have made no progress": (
        failed_again(resumed(20, None), checkpoint(20)).training(attempt=6, **CRASH),
        (records("group"),),
    ),
    "a newer checkpoint since makes the cheap tier worth a try": (
        failed_again(resumed(20, 20), checkpoint(20)).training(attempt=6, checkpoint=checkpoint(25), **CRASH),
        (records("ranks"),),
    ),
    "a checkpoint of an earlier stage is no progress of this one": (
        failed_again(resumed(None, None), checkpoint(100, stage="before")).training(attempt=6, **CRASH),
        (records("group"),),
    ),
    "recoveries of an earlier stage say nothing of this one": (
        failed_again([each | {"stage": "corpus"} for each in resumed(0, 0)]).training(attempt=6, **CRASH),
        (records("ranks"),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_failing(name: str) -> None:
    check(*CASES[name])
