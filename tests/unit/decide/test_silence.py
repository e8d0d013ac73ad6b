"""Who is given up for silence, and what is done with what is left of it: a sentence, what is seen, what must follow."""

from typing import Any

import pytest
from builders import Case, a_run, ago, deleting, ended, peer, pod, recovery, say
from expectations import Cases, Expectation, becomes, check, does, grows_attempt, says, unchanged
from trainyard_api.protocol import PeerState
from trainyard_api.status import Phase, Reason
from trainyard_operator.decide.decision import Assign, CreatePod, CreateSecret, DeletePod, LookAt
from trainyard_operator.decide.observation import format_time

SINCE = format_time(ago(7))
RUNS = {"containerStatuses": [{"name": "trainer", "state": {"running": {"startedAt": format_time(ago(20))}}}]}


def kubelet_says(seconds_ago: float) -> dict[str, Any]:
    """That the agent of a container which was started 20 s ago does not answer, since then."""
    since = format_time(ago(seconds_ago))
    unready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "lastTransitionTime": since}
    return {"conditions": [unready], **RUNS}


KUBELET_SAYS = kubelet_says(2)
NEVER_READY = kubelet_says(20)
NODE_CONTROLLER_SAYS = {"conditions": [{"type": "Ready", "status": "False"}]}


def training(*pods: dict[str, Any], silent: tuple[int, ...] = (), **state: Any) -> Case:
    """Three workers, of which agent 0 does not hear these."""
    run = a_run(workers={"count": 3}).in_stage().with_pods(*pods)
    return run.training(silent=dict.fromkeys(silent, SINCE), **state)


def witness(worker: int, silent: bool = True, node: str = "node-b") -> dict[str, Any]:
    """A pod whose agent is asked, and does or does not miss agent 0."""
    return pod(worker, node=node, agent={"attempt": 2, "phase": "running", "silent": {0: SINCE} if silent else {}})


def taking_places(seconds: float, second: dict[str, Any], **state: Any) -> Case:
    """Attempt 3, complete for so long, in which the second agent has not taken its place."""
    ready = format_time(ago(seconds))
    run = a_run().in_stage(phase=Phase.STARTING, attempt=3, ready_time=ready).with_pods(pod(0, attempt=3), second)
    return run.training(attempt=3, resumed_step=None, progress=None, **state).not_told(1)


def looks_at(*names: str) -> Expectation:
    """These pods are looked at, and nothing is written."""
    return lambda decision, before: (
        decision.status == before
        and decision.actions == tuple(LookAt(action.pod) for action in decision.actions)
        and [action.pod["metadata"]["name"] for action in decision.actions] == list(names)
    )


def gives_up(*names: str, cause: Reason = Reason.NODE_LOST) -> Expectation:
    """These pods go, the first of which is on record as the cause; the others stay for the next attempt."""
    return lambda decision, _: (
        decision.status.reason == cause
        and (decision.status.recoveries[-1].pod, decision.status.recoveries[-1].tier) == (names[0], "pod")
        and [(a.pod["metadata"]["name"], a.grace_seconds) for a in decision.actions] == [(name, 5) for name in names]
        and decision.status.workers.ready == 3 - len(names)
    )


APART = pod(0, node="a"), pod(1, node="b"), pod(2, node="c")
TOGETHER = pod(0, node="a"), pod(1, node="b"), pod(2, node="b")
GOES_ON = (becomes(Phase.RUNNING, Reason.TRAINING), does())

CASES: Cases = {
    "a worker that agent 0 does not hear any more has lost its node, which costs no failure": (
        training(*APART, silent=(1,)),
        (
            gives_up("tiny-base-1-2"),
            says("pod tiny-base-1-2: nothing was heard of its agent for 7 s, nor of anything on node b"),
            lambda d, _: (d.status.recoveries[-1].node, d.status.recoveries[-1].counted) == ("b", False),
            lambda d, _: d.status.recoveries[-1].detect_seconds == 7.0,
        ),
    ),
    "all pods on a node that is lost are given up with it": (
        training(*TOGETHER, silent=(1, 2)),
        (gives_up("tiny-base-1-2", "tiny-base-2-2"),),
    ),
    "a worker beside which another one is heard is silent by itself, and that is a failure": (
        training(*TOGETHER, silent=(1,)),
        (gives_up("tiny-base-1-2", cause=Reason.AGENT_SILENT), lambda d, _: d.status.restarts.failures == 1),
    ),
    "a worker that has its place since a moment ago was not to be heard of before": (
        training(*APART, silent=(1,)).given_places(3),
        GOES_ON,
    ),
    "one that was heard of since then is silent": (
        training(*APART, silent=(1,), peers=[PeerState(worker=1, attempt=2, phase="running")]).given_places(3),
        (gives_up("tiny-base-1-2"),),
    ),
    "a new agent that agent 0 waits for and that starts slowly is not silent": (
        taking_places(20, pod(1, attempt=3), silent={1: SINCE}),
        (does(Assign),),
    ),
    "a worker whose kubelet misses its agent too has its node": (
        training(pod(0, node="a"), pod(1, node="b", **KUBELET_SAYS), pod(2, node="c"), silent=(1,)),
        (gives_up("tiny-base-1-2", cause=Reason.AGENT_SILENT),),
    ),
    "a kubelet that has said nothing since its pod began is no witness": (
        training(pod(0, node="a"), pod(1, node="b", **NEVER_READY), pod(2, node="c"), silent=(1,)),
        (gives_up("tiny-base-1-2", cause=Reason.NODE_LOST),),
    ),
    "a worker that is gone already is not silent": (
        training(pod(0, node="a"), ended(0, 1, node="b"), pod(2, node="c"), silent=(1,)),
        GOES_ON,
    ),
    "what agent 0 said of an older attempt is no silence in this one": (
        training(*APART, silent=(1,), attempt=1),
        (lambda d, _: d.status.recoveries == (), does()),
    ),
    "agent 0 that another one misses too has lost its node": (
        training(pod(0), witness(1), pod(2, node="c")).unanswering(8),
        (gives_up("tiny-base-0-2"), lambda d, _: d.status.recoveries[-1].detect_seconds == 8.0),
    ),
    "agent 0 that nobody else misses is cut off from the operator, and trains on": (
        training(pod(0), witness(1, silent=False), pod(2, node="c")).unanswering(300),
        GOES_ON,
    ),
    "agent 0 of whom nobody can be asked is waited for": (
        training(*APART).unanswering(50),
        GOES_ON,
    ),
    "agent 0 of whom nobody can be asked is given up after a minute": (
        training(*APART).unanswering(60),
        (gives_up("tiny-base-0-2", cause=Reason.AGENT_SILENT),),
    ),
    "agent 0 that its kubelet misses too is given up at once": (
        training(pod(0, **KUBELET_SAYS), *APART[1:]).unanswering(8),
        (gives_up("tiny-base-0-2", cause=Reason.AGENT_SILENT),),
    ),
    "agent 0 whose kubelet is not heard of any more either has lost its node": (
        training(pod(0, **NODE_CONTROLLER_SAYS), *APART[1:]).unanswering(11),
        (gives_up("tiny-base-0-2"),),
    ),
    "the agent beside agent 0 has time to answer before it is given up with it": (
        training(pod(0), witness(1), pod(2)).unanswering(8),
        GOES_ON,
    ),
    "the agent beside agent 0 that does not answer either is given up with it": (
        training(pod(0), witness(1), pod(2)).unanswering(10),
        (gives_up("tiny-base-0-2", "tiny-base-2-2"),),
    ),
    "the agent beside agent 0 that answers shows that the node is there": (
        training(pod(0), witness(1, node="node-a"), pod(2, node="c")).unanswering(8),
        (gives_up("tiny-base-0-2", cause=Reason.AGENT_SILENT),),
    ),
    "ranks that lost a peer wait for one that has not said how it fared: its node may be what was lost": (
        training(*APART, **say(30, "PeerLost", seconds_ago=6), peers=[peer(2, 30, "PeerLost", seconds_ago=6)]),
        (unchanged, lambda d, _: d.look_again == 0.5),
    ),
    "ranks that lost a peer learn that its node is lost": (
        training(*APART, silent=(1,), **say(30, "PeerLost"), peers=[peer(2, 30, "PeerLost")]),
        (gives_up("tiny-base-1-2"),),
    ),
    "an agent that had a place in the attempt before need not start, and is given less time to take the next": (
        taking_places(11, pod(1, **KUBELET_SAYS)),
        (becomes(Phase.RECOVERING, Reason.AGENT_SILENT), does(DeletePod), lambda d, _: d.status.restarts.failures == 1),
    ),
    "one whose kubelet does not say that it is gone has lost its node before it had its place, which costs no failure": (
        taking_places(11, pod(1, node="b")),
        (
            becomes(Phase.RECOVERING, Reason.NODE_LOST),
            does(DeletePod),
            says("pod tiny-base-1-2: no answer from its agent in 10 s, nor word of that from node b"),
            lambda d, _: (d.status.restarts.failures, d.status.restarts.disruptions) == (0, 1),
        ),
    ),
    "a new agent may take longer, also where its kubelet waits for it": (
        taking_places(89, pod(1, attempt=3, **KUBELET_SAYS)),
        (does(Assign),),
    ),
    "a new agent whose node is known to be lost is not waited for": (
        taking_places(11, pod(1, attempt=3, node="b", **NODE_CONTROLLER_SAYS)),
        (becomes(Phase.RECOVERING, Reason.NODE_LOST), does(DeletePod)),
    ),
    "a new agent that never answers on a node that is there is a failure": (
        taking_places(91, pod(1, attempt=3)),
        (becomes(Phase.RECOVERING, Reason.AGENT_SILENT), does(DeletePod)),
    ),
    "before a worker is given up its pod is looked at: it may be gone, and the watch have lost that": (
        training(*APART, silent=(1,)).unlooked(),
        (looks_at("tiny-base-1-2"),),
    ),
    "before a lost peer counts as a failure the pod of whom nobody has told is looked at": (
        training(
            *APART, **say(30, "PeerLost", seconds_ago=13), peers=[peer(2, 30, "PeerLost", seconds_ago=13)]
        ).unlooked(),
        (looks_at("tiny-base-1-2"),),
    ),
    "ranks that lost a peer whose pod is there have failed": (
        training(*APART, **say(30, "PeerLost", seconds_ago=13), peers=[peer(2, 30, "PeerLost", seconds_ago=13)]),
        (becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),),
    ),
    "ranks that lost a peer whose pod turns out to be gone have not": (
        training(*APART[::2], **say(30, "PeerLost", seconds_ago=13), peers=[peer(2, 30, "PeerLost", seconds_ago=13)]),
        (becomes(Phase.RECOVERING, Reason.POD_DELETED), lambda d, _: d.status.restarts.failures == 0),
    ),
    "where all were stopped, any of their pods may be the one that was deleted": (
        training(*APART, **say(20, "Stopped", seconds_ago=4)).unlooked(),
        (looks_at("tiny-base-0-2", "tiny-base-1-2", "tiny-base-2-2"),),
    ),
}


def lost(*pods: dict[str, Any], attempt: int = 2, **status: Any) -> Case:
    """The node of worker 1, node-b, was lost in attempt 2."""
    entry = recovery(Reason.NODE_LOST, tier="pod", node="node-b", pod="tiny-base-1-2", counted=False)
    fields = {"phase": Phase.RECOVERING, "attempt": attempt, "recoveries": [entry], **status}
    return a_run().in_stage(**fields).with_pods(*pods)


def keeps_off(*nodes: str) -> Expectation:
    """The pods that are made go to none of these nodes."""
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return lambda decision, _: (
        [a.manifest["spec"]["affinity"] for a in decision.actions if isinstance(a, CreatePod)]
        == [{"nodeAffinity": required}]
    )


ON_B = pod(1, node="node-b")
RUNNING_AGAIN = {"phase": Phase.RUNNING, "attempt": 3}

AFTERWARDS: Cases = {
    "nobody waits for the end of a pod on a lost node": (
        lost(pod(0), deleting(ON_B, -5)),
        (grows_attempt("base", 3), lambda d, _: (d.actions, d.status.workers.ready) == ((), 1)),
    ),
    "nor does it stay while its deletion has not come round": (
        lost(pod(0), ON_B),
        (grows_attempt("base", 3), lambda d, _: d.status.workers.ready == 1),
    ),
    "the pod is made anew elsewhere": (
        lost(pod(0), deleting(ON_B, 14), attempt=3),
        (does(CreateSecret, CreatePod), keeps_off("node-b")),
    ),
    "one that nobody has asked to go, for it was not known to be there, is asked now": (
        lost(pod(0), ON_B, attempt=3),
        (does(CreateSecret, CreatePod, DeletePod), keeps_off("node-b")),
    ),
    "a node that was lost long ago is as good as any": (
        lost(
            pod(0),
            attempt=3,
            recoveries=[recovery(Reason.NODE_LOST, node="node-b", time=format_time(ago(400)))],
        ),
        (lambda d, _: "affinity" not in d.actions[1].manifest["spec"],),
    ),
    "the old pod may end by itself": (
        lost(pod(0), deleting(ON_B, 14), pod(1, attempt=3), **RUNNING_AGAIN).training(attempt=3),
        GOES_ON,
    ),
    "the old pod is taken out by force once the next attempt runs": (
        lost(pod(0), deleting(ON_B, 16), pod(1, attempt=3), **RUNNING_AGAIN).training(attempt=3),
        (
            does(DeletePod),
            lambda d, _: (d.actions[0].pod["metadata"]["uid"], d.actions[0].grace_seconds) == ("pod-base-1-2", 0),
        ),
    ),
    "the old pod of a run that has ended meanwhile is taken out as well": (
        lost(deleting(ON_B, 16), phase=Phase.SUCCEEDED, attempt=3),
        (does(DeletePod), lambda d, _: d.actions[0].grace_seconds == 0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_silence(name: str) -> None:
    check(*CASES[name])


@pytest.mark.parametrize("name", AFTERWARDS)
def test_after_a_silence(name: str) -> None:
    check(*AFTERWARDS[name])
