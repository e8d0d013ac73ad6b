"""Containers that are started again in their pods: statuses as kubelets of 1.37 show them, and what must follow."""

from dataclasses import replace
from typing import Any

import pytest
from builders import Case, a_run, ago, deleting, ended, pod, recovery, say
from expectations import Cases, Expectation, becomes, check, does, grows_attempt, says, unchanged
from trainyard_api.status import Phase, Reason, Tier
from trainyard_operator.decide.container import RULES
from trainyard_operator.decide.decision import Assign, CreatePod, CreateSecret, DeletePod
from trainyard_operator.decide.objects import pod_manifest
from trainyard_operator.decide.observation import format_time

REMOVED = {"exitCode": 137, "reason": "", "message": "The container is removed", "finishedAt": None}


def shown(worker: int, state: dict[str, Any], restarts: int, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """A pod whose container may be started again, with this status."""
    own = {"name": "trainer", "restartCount": restarts, "state": state, "lastState": {"terminated": before}}
    made = pod(worker, containerStatuses=[own])
    return {**made, "spec": {**made["spec"], "containers": [{"name": "trainer", "restartPolicyRules": RULES}]}}


def killed(worker: int, reason: str = "Error", code: int = 137, restarts: int = 0) -> dict[str, Any]:
    """It has just been killed."""
    end = {"exitCode": code, "reason": reason, "finishedAt": format_time(ago(1))}
    return shown(worker, {"terminated": end}, restarts)


def removed(worker: int, starts: int = 1, why: str = "RestartingAllContainers") -> dict[str, Any]:
    """It is about to be started again."""
    return shown(worker, {"waiting": {"reason": why}}, starts, REMOVED)


def runs_again(worker: int, starts: int = 1) -> dict[str, Any]:
    return shown(worker, {"running": {}}, starts, REMOVED)


def records(tier: Tier, **fields: object) -> Expectation:
    wanted = {"tier": tier, **fields}
    return lambda decision, _: {name: getattr(decision.status.recoveries[-1], name) for name in wanted} == wanted


def puts_on_record(**starts: int) -> Expectation:
    return lambda decision, _: {each.pod: each.starts for each in decision.status.restarted} == starts


def begun(*pods: dict[str, Any], seconds_ago: float = 2, starts: int = 1, **fields: Any) -> Case:
    """Attempt 3, after the container of worker 1 was killed so long ago."""
    entry = recovery(Reason.PROCESS_FAILED, tier="container") | {"time": format_time(ago(seconds_ago))}
    known = {"phase": Phase.RECOVERING, "restarted": [{"pod": "tiny-base-1-2", "starts": starts}], **fields}
    return a_run().in_stage(attempt=3, recoveries=[entry], **known).with_pods(*pods)


def ended_by(tier: Tier) -> Case:
    return a_run().in_stage(phase=Phase.RECOVERING, recoveries=[recovery(Reason.PROCESS_FAILED, tier=tier)])


RUNNING = a_run().in_stage().with_pods(pod(0), pod(1)).training()

CASES: Cases = {
    "a killed agent is a failure, and its container alone is started anew": (
        RUNNING.with_pods(pod(0), killed(1)),
        (
            becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),
            records("container", pod="tiny-base-1-2", exit_code=137, detect_seconds=1.0),
            lambda d, _: (d.status.restarts.failures, d.status.workers.ready) == (1, 2),
            does(),
        ),
    ),
    "it is one too if all that is still to be seen of it is that there is another one": (
        RUNNING.with_pods(pod(0), runs_again(1)),
        (records("container", pod="tiny-base-1-2", exit_code=137, detect_seconds=None),),
    ),
    "a crash in native code starts it anew as well": (
        RUNNING.with_pods(pod(0), killed(1, code=139)),
        (records("container", exit_code=139),),
    ),
    "out of memory says so": (
        RUNNING.with_pods(pod(0), killed(1, "OOMKilled")),
        (becomes(Phase.RECOVERING, Reason.OUT_OF_MEMORY), says("spec.resources.memory"), records("container")),
    ),
    "it comes before what its peers felt of it": (
        RUNNING.with_pods(pod(0), removed(1)).training(**say(30, "PeerLost")),
        (records("container", pod="tiny-base-1-2"),),
    ),
    "where the kubelet does not start it again, its pod is made anew": (
        RUNNING.with_pods(pod(0), ended(137, 1)),
        (records("pod"),),
    ),
    "nor does it while the pod is being deleted, which is why it was killed": (
        RUNNING.with_pods(pod(0), deleting(killed(1), 0)),
        (becomes(Phase.RECOVERING, Reason.POD_DELETED), records("pod", counted=False)),
    ),
    "an exit code of the agent's own is said once": (
        RUNNING.with_pods(pod(0), {**killed(1, code=1), "status": ended(1, 1)["status"]}),
        (records("pod", exit_code=1),),
    ),
    "a kubelet that waits before it starts the container again is not waited for": (
        RUNNING.with_pods(pod(0), removed(1, why="CrashLoopBackOff")),
        (records("pod"), lambda d, _: d.status.workers.ready == 1),
    ),
    "the next attempt is written ahead at once, with how often the container was started": (
        ended_by("container").with_pods(pod(0), removed(1)),
        (grows_attempt("base", 3), puts_on_record(**{"tiny-base-1-2": 1})),
    ),
    "its pod goes before the next attempt if its kubelet waits": (
        ended_by("pod").with_pods(pod(0), removed(1, why="CrashLoopBackOff")),
        (does(DeletePod),),
    ),
    "a group waits for a container, and no place is given before it runs": (
        begun(pod(0), removed(1)).idle_agent(),
        (unchanged, does(), lambda d, _: d.look_again == 0.5),
    ),
    "one that runs again is part of the group, and its start is no end of this attempt": (
        begun(pod(0), runs_again(1)).idle_agent(),
        (becomes(Phase.STARTING, Reason.WAITING_FOR_AGENTS),),
    ),
    "its agent gets its place like any other": (
        begun(pod(0), runs_again(1), phase=Phase.STARTING, ready_time=format_time(ago(1))).idle_agent(),
        (does(Assign, Assign),),
    ),
    "and may take as long to answer as one in a new pod": (
        begun(pod(0), runs_again(1), phase=Phase.STARTING, ready_time=format_time(ago(20)))
        .training(attempt=3, resumed_step=None, progress=None)
        .not_told(1),
        (does(Assign),),
    ),
    "the attempt trains on for as long as nothing more is started again": (
        begun(pod(0), runs_again(1), phase=Phase.RUNNING).training(attempt=3),
        (becomes(Phase.RUNNING, Reason.TRAINING),),
    ),
    "a second start ends the attempt like the first": (
        begun(pod(0), runs_again(1, starts=2), phase=Phase.RUNNING).training(attempt=3),
        (records("container", attempt=3),),
    ),
    "a container that does not run soon costs its pod, and that is on record": (
        begun(pod(0), removed(1), seconds_ago=11),
        (does(CreateSecret, CreatePod, DeletePod), records("pod")),
    ),
    "so does one whose kubelet begins to wait": (
        begun(pod(0), removed(1, why="CrashLoopBackOff")),
        (does(CreateSecret, CreatePod, DeletePod), records("pod")),
    ),
    "and one that ends again before the group is complete": (
        begun(pod(0), killed(1, restarts=1)),
        (does(CreateSecret, CreatePod, DeletePod), records("pod")),
    ),
}


@pytest.mark.parametrize(("case", "expectations"), CASES.values(), ids=CASES.keys())
def test_what_follows_from_what_is_seen(case: Case, expectations: tuple[Expectation, ...]) -> None:
    check(case, expectations)


def test_rules_are_in_pods_where_nodes_know_them_and_of_the_trainer_alone() -> None:
    template = {"spec": {"containers": [{"name": "side", "image": "s"}]}}
    seen = a_run(template=template).in_stage(phase=Phase.PENDING).seen()
    without = pod_manifest(seen, 1)["spec"]["containers"]
    trainer, side = pod_manifest(replace(seen, restarts_in_place=True), 1)["spec"]["containers"]
    assert trainer == {**without[0], "restartPolicy": "Never", "restartPolicyRules": RULES}
    assert side == without[1]
    assert "restartPolicyRules" not in without[0]
