"""What recovery.rules and the defaults after them make of a failure: a sentence, what is seen, what must follow."""

import pytest
from builders import Case, a_run, deleting, ended, failure, peer, pod, say
from expectations import Cases, becomes, check, does, says
from trainyard_api.status import Phase, Progress, Reason
from trainyard_operator.decide.decision import CreatePod


def ruled(*rules: dict[str, object], **status: object) -> Case:
    """A run with these rules, that trains."""
    run = a_run(recovery={"rules": list(rules)}).in_stage(**status)
    return run.with_pods(pod(0), pod(1, node="node-b")).training()


def restarts(*, counted: bool) -> tuple[object, ...]:
    """A recovery, counted or not."""
    return (
        lambda d, _: d.status.phase == Phase.RECOVERING,
        lambda d, _: d.status.recoveries[-1].counted == counted,
        lambda d, _: len(d.status.failures) == counted,
    )


FAIL, IGNORE, RESTART = ({"action": action} for action in ("Fail", "Ignore", "Restart"))
EXCLUDE = {"action": "RestartExcludingNode"}
BROKEN = {"peers": [peer(1, 42, message="CUDA error: misaligned address", last_lines=["step 7", "Xid 74 on link 3"])]}
OUT_OF_MEMORY = (pod(0), ended(137, 1, reason="OOMKilled"))
TWICE_OUT_OF_MEMORY = [failure(900, Reason.OUT_OF_MEMORY), failure(300, Reason.OUT_OF_MEMORY)]

CASES: Cases = {
    "an exit code that is told to fail ends the run, and says by which rule": (
        ruled(FAIL | {"exitCodes": [41, 42]}).training(**BROKEN),
        (
            becomes(Phase.FAILED, Reason.FAILED_BY_RULE),
            says("stage base", "recovery.rules[0] says Fail", "exit code 42"),
        ),
    ),
    "another exit code is none of its business": (
        ruled(FAIL | {"exitCodes": [41]}).training(**BROKEN),
        restarts(counted=True),
    ),
    "a cause that is ignored is recovered from and does not count": (
        ruled(IGNORE | {"causes": ["ProcessFailed"]}).training(**BROKEN),
        (*restarts(counted=False), lambda d, _: (d.status.restarts.ignored, d.status.restarts.total) == (1, 1)),
    ),
    "a message is searched for its pattern": (
        ruled(FAIL | {"message": "(?i)MISALIGNED .*"}).training(**BROKEN),
        (becomes(Phase.FAILED, Reason.FAILED_BY_RULE),),
    ),
    "so are the last lines of the process": (
        ruled(FAIL | {"message": r"^Xid \d+"}).training(**BROKEN),
        restarts(counted=True),
    ),
    "where ^ and $ mean lines only if the pattern says so": (
        ruled(FAIL | {"message": r"(?m)^Xid \d+"}).training(**BROKEN),
        (becomes(Phase.FAILED, Reason.FAILED_BY_RULE),),
    ),
    "a pattern that a backtracking engine would never be done with is nothing special": (
        ruled(FAIL | {"message": "(x+x+)+y$"}).training(peers=[peer(1, 42, message="x" * 4000)]),
        restarts(counted=True),
    ),
    "a rule for another stage does not match": (
        ruled(FAIL | {"stages": ["corpus", "out"]}).training(**BROKEN),
        restarts(counted=True),
    ),
    "all of a rule's conditions must hold": (
        ruled(FAIL | {"exitCodes": [42], "message": "no such text", "stages": ["base"]}).training(**BROKEN),
        restarts(counted=True),
    ),
    "the first rule that matches decides": (
        ruled(FAIL | {"exitCodes": [1]}, IGNORE | {"stages": ["base"]}, FAIL | {"exitCodes": [42]}).training(**BROKEN),
        restarts(counted=False),
    ),
    "rules are about the first failure, not about what followed from it": (
        ruled(FAIL | {"exitCodes": [30]}, IGNORE | {"exitCodes": [42]}).training(**BROKEN, **say(30, "PeerLost", 2)),
        restarts(counted=False),
    ),
    "a disruption costs nothing, whatever a rule says of restarting": (
        ruled(RESTART | {"causes": ["PodDeleted"]}).with_pods(pod(0), deleting(pod(1))),
        (*restarts(counted=False), lambda d, _: d.status.restarts.disruptions == 1),
    ),
    "a disruption may be told to end the run": (
        ruled(FAIL | {"causes": ["PodDeleted"]}).with_pods(pod(0), deleting(pod(1))),
        (becomes(Phase.FAILED, Reason.FAILED_BY_RULE),),
    ),
    "pods that we delete ourselves are no failure for a rule": (
        ruled(
            FAIL | {"causes": ["PodDeleted"]},
            phase=Phase.RECOVERING,
            recoveries=[failure(2) | {"attempt": 2, "tier": "group"}],
        ).with_pods(deleting(pod(0)), deleting(pod(1))),
        (lambda d, _: d.status.phase == Phase.RECOVERING,),
    ),
    "what would fail again the same way is tried again if a rule says so": (
        ruled(RESTART | {"exitCodes": [10]}).with_pods(pod(0), ended(10, 1, message="loss is NaN")),
        (*restarts(counted=True), lambda d, _: d.status.recoveries[-1].cause == Reason.PERMANENT_ERROR),
    ),
    "and its pod is made anew in the next attempt": (
        ruled(
            RESTART | {"exitCodes": [10]},
            phase=Phase.RECOVERING,
            attempt=3,
            recoveries=[failure(2, Reason.PERMANENT_ERROR) | {"attempt": 2, "tier": "pod"}],
        ).with_pods(pod(0), ended(10, 1, message="loss is NaN")),
        (
            lambda d, _: (
                [a.manifest["metadata"]["name"] for a in d.actions if isinstance(a, CreatePod)] == ["tiny-base-1-3"]
            ),
        ),
    ),
    "an ignored crash waits all the same before attempts that get no further": (
        ruled(
            IGNORE | {"causes": ["ProcessFailed"]},
            phase=Phase.RECOVERING,
            attempt=3,
            recoveries=[
                failure(40) | {"attempt": 2, "step": 5, "counted": False},
                failure(0.25) | {"attempt": 3, "step": 5, "counted": False},
            ],
        ).with_pods(),
        (does(), lambda d, _: d.look_again == 0.75),
    ),
    "a second lack of memory in a stage is a failure like others": (
        ruled(failures=TWICE_OUT_OF_MEMORY[:1]).with_pods(*OUT_OF_MEMORY),
        (becomes(Phase.RECOVERING, Reason.OUT_OF_MEMORY),),
    ),
    "a third one ends the run": (
        ruled(failures=TWICE_OUT_OF_MEMORY).with_pods(*OUT_OF_MEMORY),
        (
            becomes(Phase.FAILED, Reason.OUT_OF_MEMORY),
            says("stage base ran out of memory 3 times", "spec.resources.memory"),
        ),
    ),
    "those of another stage are not added": (
        ruled(failures=[each | {"stage": "corpus"} for each in TWICE_OUT_OF_MEMORY]).with_pods(*OUT_OF_MEMORY),
        (becomes(Phase.RECOVERING, Reason.OUT_OF_MEMORY),),
    ),
    "a rule to restart has the last word on memory": (
        ruled(RESTART | {"causes": ["OutOfMemory"]}, failures=TWICE_OUT_OF_MEMORY).with_pods(*OUT_OF_MEMORY),
        (becomes(Phase.RECOVERING, Reason.OUT_OF_MEMORY), lambda d, _: len(d.status.failures) == 3),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_ruling(name: str) -> None:
    check(*CASES[name])


def crashes(*nodes: str, step: int = 50, **fields: object) -> list[dict[str, object]]:
    """Counted crashes at one step, the last one a minute ago."""
    return [
        failure(60 * (len(nodes) - i), crashed=True, step=step, node=node, **fields) for i, node in enumerate(nodes)
    ]


def crashed_at_50(*before: dict[str, object], progress: Progress | None = None, **spec: object) -> Case:
    """Worker 1, on node-b, has crashed after step 50 once more."""
    run = a_run(recovery=spec).in_stage(failures=before).with_pods(pod(0), pod(1, node="node-b"))
    progress = progress or Progress(step=50, steps=100, position=1176)
    return run.training(progress=progress, peers=[peer(1, 1, message="IndexError: index out of range")])


SAME_STEP: Cases = {
    "three crashes in one step, not all on one node, are not the hardware": (
        crashed_at_50(*crashes("node-a", "node-b")),
        (
            becomes(Phase.FAILED, Reason.SAME_STEP_FAILS),
            says("step 51 of stage base has crashed 3 times", "on node-a and node-b", "not the hardware"),
            says("sequences 1200 to 1223", "IndexError: index out of range"),
            lambda d, _: "most likely" not in d.status.message,
        ),
    ),
    "two are nothing yet": (
        crashed_at_50(*crashes("node-a")),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "where all were on one node, one more attempt is made elsewhere": (
        crashed_at_50(*crashes("node-b", "node-b")),
        (
            becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),
            lambda d, _: [(each.node, each.scope) for each in d.status.excluded_nodes] == [("node-b", "Run")],
            lambda d, _: d.status.recoveries[-1].tier == "pod",
        ),
    ),
    "a step that crashes elsewhere too is not the hardware": (
        crashed_at_50(*crashes("node-a", "node-a", "node-a")),
        (becomes(Phase.FAILED, Reason.SAME_STEP_FAILS), says("4 times", "on node-a and node-b")),
    ),
    "where there is nowhere else, it is only likely": (
        crashed_at_50(*crashes("node-b", "node-b"), excludeNodeSeconds=0),
        (becomes(Phase.FAILED, Reason.SAME_STEP_FAILS), says("3 times, on node-b", "most likely not the hardware")),
    ),
    "a checkpoint counts as a step that was done": (
        a_run()
        .in_stage(failures=crashes("node-a", "node-b"), progress=Progress(step=57, steps=100, position=1344))
        .with_pods(pod(0), pod(1, node="node-b"))
        .training(progress=None, resumed_step=50, peers=[peer(1, 139)]),
        (becomes(Phase.FAILED, Reason.SAME_STEP_FAILS), says("step 51", "sequences 1200 to 1223")),
    ),
    "attempts that never got to a step say nothing of one": (
        a_run()
        .in_stage(failures=crashes("node-a", "node-b"))
        .with_pods(pod(0), pod(1))
        .training(progress=None, resumed_step=None, peers=[peer(1, 1)]),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "an attempt that got further in between makes it another matter": (
        crashed_at_50(*crashes("node-a", "node-b"), *crashes("node-b", step=60)),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "who was killed from outside did not crash": (
        crashed_at_50(*crashes("node-a", "node-b")).training(peers=[peer(1, 137)]),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "who lost its peers did not crash": (
        crashed_at_50(*crashes("node-a", "node-b")).training(**say(30, "PeerLost", seconds_ago=30)),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "a rule to restart has the last word": (
        crashed_at_50(*crashes("node-a", "node-b"), rules=[RESTART | {"causes": ["ProcessFailed"]}]),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "without a known position the batch is not named": (
        crashed_at_50(*crashes("node-a", "node-b"), progress=Progress(step=50, steps=100)),
        (becomes(Phase.FAILED, Reason.SAME_STEP_FAILS), lambda d, _: "sequences" not in d.status.message),
    ),
}


@pytest.mark.parametrize("name", SAME_STEP)
def test_the_same_step(name: str) -> None:
    check(*SAME_STEP[name])
