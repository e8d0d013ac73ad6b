"""Which nodes are kept off, on whose word and for how long: a sentence, what is seen, what must follow."""

import json
from dataclasses import replace
from typing import Any

import pytest
from builders import Case, a_run, ago, failure, peer, pod, recovery
from expectations import Cases, Expectation, becomes, check, says, tells
from trainyard_api.names import ANNOTATION_EXCLUDED, ANNOTATION_FORGIVEN
from trainyard_api.status import ExcludedNode, Phase, Reason
from trainyard_operator.decide.decision import CreatePod, DeletePod
from trainyard_operator.decide.objects import pod_manifest
from trainyard_operator.decide.observation import format_time
from trainyard_operator.decide.suspects import excluded, forgive

LOST = [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]
TWO_NODES = (pod(0), pod(1, node="node-b"))
A_DAY = 86_400


def entry(node: str = "node-b", since: float = 600, left: float = A_DAY, **fields: Any) -> dict[str, Any]:
    """A node that a run excludes."""
    times = {"time": format_time(ago(since)), "until": format_time(ago(-left))}
    return {"node": node, "cause": Reason.PROCESS_FAILED, **times, **fields}


def began_on(*nodes: str, **fields: Any) -> list[dict[str, Any]]:
    """Crashes that count, each at another step, the last one a minute ago."""
    return [failure(60 * (len(nodes) - i), node=node, crashed=True, step=i, **fields) for i, node in enumerate(nodes)]


def trains(*failures: dict[str, Any], recovery: dict[str, Any] | None = None, **status: Any) -> Case:
    """A run on two nodes with these failures behind it."""
    return a_run(recovery=recovery or {}).in_stage(failures=failures, **status).with_pods(*TWO_NODES).training()


def crash_on_b(case: Case, code: int = 1, **said: Any) -> Case:
    """The run, a rank of which has just ended on node-b."""
    return case.training(peers=[peer(1, code, **said)])


def excludes(**fields: object) -> Expectation:
    """One node, with these."""
    return lambda decision, _: (
        [{name: getattr(each, name) for name in fields} for each in decision.status.excluded_nodes] == [fields]
    )


def excludes_none(decision: Any, _: Any) -> bool:
    return decision.status.excluded_nodes == ()


def deletes(*names: str) -> Expectation:
    """These pods and no others."""
    return lambda decision, _: (
        [a.pod["metadata"]["name"] for a in decision.actions if isinstance(a, DeletePod)] == list(names)
    )


ANY = {"rules": [{"exitCodes": [42], "action": "RestartExcludingNode"}]}
UNPLACED = {"reason": Reason.WAITING_FOR_CAPACITY, "message": "0/2 nodes are available"}


def waits(
    seconds: float,
    *entries: dict[str, Any],
    object: str = "pod/tiny-base-1-3",
    lost: float | None = None,
    **annotations: str,
) -> Case:
    """Attempt 3, of which a pod made to keep off node-b has found no room for so long; that was lost so many seconds ago, or an
    eviction was all.
    """
    no_room = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}
    pending = pod(1, attempt=3, node="", phase="Pending", conditions=[no_room])
    pending["metadata"]["annotations"] = {ANNOTATION_EXCLUDED: "node-b"}
    since = {"waiting": {**UNPLACED, "object": object, "since": format_time(ago(seconds))}}
    run = a_run().in_stage(
        phase=Phase.QUEUED,
        attempt=3,
        excluded_nodes=entries,
        recoveries=[
            recovery(Reason.EVICTED, tier="pod")
            if lost is None
            else recovery(Reason.NODE_LOST, tier="pod", node="node-b") | {"time": format_time(ago(lost))}
        ],
        **since,
    )
    metadata = {**run.run["metadata"], "annotations": annotations}
    return replace(run, run={**run.run, "metadata": metadata}).with_pods(pod(0), pending)


FORGIVEN = {ANNOTATION_FORGIVEN: forgive({}, "node-b", format_time(ago(5)))}

CASES: Cases = {
    "a lost node is kept off for a day, by this run": (
        trains().with_pods(pod(0), pod(1, node="node-b", conditions=LOST)),
        (
            becomes(Phase.RECOVERING, Reason.NODE_LOST),
            excludes(node="node-b", cause=Reason.NODE_LOST, scope="Run", until=format_time(ago(-A_DAY))),
            lambda d, _: d.status.failures == (),
        ),
    ),
    "for as long as the run says": (
        trains(recovery={"excludeNodeSeconds": 60}).with_pods(pod(0), pod(1, node="node-b", conditions=LOST)),
        (excludes(node="node-b", until=format_time(ago(-60))),),
    ),
    "or never": (
        trains(recovery={"excludeNodeSeconds": 0}).with_pods(pod(0), pod(1, node="node-b", conditions=LOST)),
        (becomes(Phase.RECOVERING, Reason.NODE_LOST), excludes_none),
    ),
    "a broken GPU is known by its words, and all runs of the namespace are to know": (
        crash_on_b(trains(), message="CUDA error: uncorrectable ECC error encountered"),
        (
            excludes(node="node-b", scope="Namespace"),
            lambda d, _: [event.reason for event in d.events] == ["ProcessFailed", "NodeExcluded"],
            lambda d, _: "node-b" in d.events[1].message and "uncorrectable ECC" in d.events[1].message,
        ),
    ),
    "also if only the last lines have them": (
        crash_on_b(trains(), last_lines=["NVRM: GPU 0000:1b:00.0: GPU has fallen off the bus."]),
        (excludes(node="node-b", scope="Namespace"),),
    ),
    "a node on which three crashes in a row began is a suspect": (
        crash_on_b(trains(*began_on("node-a", "node-b", "node-b"))),
        (
            excludes(node="node-b", scope="Suspected"),
            lambda d, _: "3 failures in a row" in d.status.excluded_nodes[0].message,
        ),
    ),
    "two are chance": (crash_on_b(trains(*began_on("node-b"))), (excludes_none,)),
    "three of which one was elsewhere are chance": (
        crash_on_b(trains(*began_on("node-b", "node-a", "node-b"))),
        (excludes_none,),
    ),
    "kills from outside make no suspect": (
        crash_on_b(trains(*began_on("node-b", "node-b")), 137),
        (excludes_none,),
    ),
    "where all of the group is on one node, nothing points to it": (
        crash_on_b(trains(*began_on("node-b", "node-b")).with_pods(pod(0, node="node-b"), TWO_NODES[1])),
        (excludes_none,),
    ),
    "what a node was excluded for is not held against it again": (
        crash_on_b(
            trains(
                *began_on("node-b", "node-b", "node-b"), excluded_nodes=[entry(since=90, left=-30, scope="Suspected")]
            )
        ),
        (lambda d, _: d.status.excluded_nodes[0].until == format_time(ago(30)),),
    ),
    "a rule excludes the node of the failure that it matches": (
        crash_on_b(trains(recovery=ANY), 42),
        (
            becomes(Phase.RECOVERING, Reason.PROCESS_FAILED),
            excludes(node="node-b", scope="Run"),
            lambda d, _: "recovery.rules[0]" in d.status.excluded_nodes[0].message,
            lambda d, _: (d.status.recoveries[-1].tier, d.status.workers.ready) == ("pod", 1),
        ),
    ),
    "the pods that are there leave, the others stay": (
        a_run()
        .in_stage(
            phase=Phase.RECOVERING, recoveries=[recovery(Reason.PROCESS_FAILED, tier="pod")], excluded_nodes=[entry()]
        )
        .with_pods(*TWO_NODES),
        (deletes("tiny-base-1-2"),),
    ),
    "and are made anew, off the node": (
        a_run()
        .in_stage(
            phase=Phase.RECOVERING,
            attempt=3,
            recoveries=[recovery(Reason.PROCESS_FAILED, tier="pod")],
            excluded_nodes=[entry()],
        )
        .with_pods(*TWO_NODES),
        (lambda d, _: [kept_off(a.manifest) for a in d.actions if isinstance(a, CreatePod)] == [["node-b"]],),
    ),
    "one that got its node only then goes as well, or it would hold it until the run ends": (
        a_run()
        .in_stage(
            phase=Phase.RECOVERING,
            attempt=3,
            recoveries=[recovery(Reason.OUT_OF_MEMORY, tier="group")],
            excluded_nodes=[entry()],
        )
        .with_pods(pod(0, attempt=3), pod(1, node="node-b")),
        (deletes("tiny-base-1-2"), lambda d, _: [type(a) for a in d.actions].count(CreatePod) == 1),
    ),
    "a pod that finds no room says what it keeps off, and how to forgive": (
        waits(5, entry(), object="pod/another"),
        (lambda d, _: "node-b" in d.status.waiting.message and "trainyard nodes" in d.status.waiting.message,),
    ),
    "a broken node is not": (
        waits(301, entry(scope="Namespace")).with_pods(pod(0, attempt=3), waits(301).pods[1]),
        (lambda d, _: d.status.phase == Phase.QUEUED and not d.actions and not d.events,),
    ),
    "a pod that kept off a node which may be used again is made anew": (
        waits(5, entry(left=-1)),
        (becomes(Phase.RECOVERING, Reason.WAITING_FOR_CAPACITY), says("node-b"), lambda d, _: d.status.failures == ()),
    ),
    "one that keeps off a node which was lost just now waits for another": (
        waits(5, lost=200),
        (lambda d, _: d.status.phase == Phase.QUEUED and not d.actions and not d.events,),
    ),
    "one that keeps off a node which was lost long ago is made anew": (
        waits(5, lost=301),
        (becomes(Phase.RECOVERING, Reason.WAITING_FOR_CAPACITY), says("node-b")),
    ),
    "so is one whose node was forgiven": (
        waits(5, entry(), **FORGIVEN),
        (becomes(Phase.RECOVERING, Reason.WAITING_FOR_CAPACITY), says("node-b")),
    ),
}


def kept_off(manifest: dict[str, Any]) -> list[str]:
    """The nodes that a pod must not be put on."""
    affinity = manifest["spec"].get("affinity", {}).get("nodeAffinity", {})
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    fields = [field for term in terms for field in term["matchFields"]]
    return [
        node
        for field in fields
        if (field["key"], field["operator"]) == ("metadata.name", "NotIn")
        for node in field["values"]
    ]


@pytest.mark.parametrize("name", CASES)
def test_suspects(name: str) -> None:
    check(*CASES[name])


def test_a_suspect_is_better_than_no_node() -> None:
    waiting = waits(301, entry(scope="Suspected"))
    readmitted = waiting.decide()
    assert tells("NodeReadmitted", "node-b", "300 s")(readmitted, waiting.status)
    assert excludes(node="node-b", until=format_time(ago(0)))(readmitted, waiting.status)
    anew = replace(waiting, status=readmitted.status).decide()
    assert becomes(Phase.RECOVERING, Reason.WAITING_FOR_CAPACITY)(anew, readmitted.status)


def said(namespace: str = "team", node: str = "node-b", **fields: Any) -> tuple[str, ExcludedNode]:
    """What another run says of a node."""
    return namespace, ExcludedNode.model_validate(entry(node, **fields))


SUSPECTED, CERTAIN = {"scope": "Suspected"}, {"scope": "Namespace"}
BELIEVED = {
    "what the namespace knows for certain": ((said(**CERTAIN),), True),
    "what one run suspects": ((said(**SUSPECTED),), False),
    "what two runs suspect": ((said(**SUSPECTED), said(**SUSPECTED)), True),
    "what two runs say of themselves alone": ((said(), said()), False),
    "what another namespace is certain of": ((said("other", **CERTAIN),), False),
    "what two runs of another namespace suspect": ((said("other", **SUSPECTED), said("other", **SUSPECTED)), False),
    "what two namespaces say": ((said(**SUSPECTED), said("other", **CERTAIN)), True),
    "what two other namespaces say": ((said("one", **SUSPECTED), said("other", **SUSPECTED)), True),
    "what was said of a time that is over": ((said(left=-1, **CERTAIN),), False),
}


@pytest.mark.parametrize("what", BELIEVED)
def test_a_run_believes(what: str) -> None:
    told, expected = BELIEVED[what]
    seen = replace(a_run().in_stage().seen(), said_by_others=told)
    assert (excluded(seen) == ("node-b",)) == expected
    unheeding = replace(a_run(recovery={"excludeNodeSeconds": 0}).in_stage().seen(), said_by_others=told)
    assert excluded(unheeding) == ()


def test_what_was_forgiven_is_forgiven_until_it_happens_again() -> None:
    run = trains(excluded_nodes=[entry("node-a", since=60), entry("node-b", since=10)])
    at = format_time(ago(30))
    annotation = forgive({ANNOTATION_FORGIVEN: json.dumps({"node-a": at})}, "node-b", at)
    run.run["metadata"]["annotations"] = {ANNOTATION_FORGIVEN: annotation}
    assert excluded(run.seen()) == ("node-b",)


@pytest.mark.parametrize(
    "text", ["node-a", "[]", '{"node-a": 3}', '{"node-a": "yesterday"}', '{"node-a": "2026-11-24"}']
)
def test_an_annotation_that_makes_no_sense_forgives_nothing(text: str) -> None:
    run = trains(excluded_nodes=[entry("node-a")])
    run.run["metadata"]["annotations"] = {ANNOTATION_FORGIVEN: text}
    assert excluded(run.seen()) == ("node-a",)


def test_a_pod_keeps_off_nodes_besides_what_its_template_asks_for() -> None:
    zone = {"key": "zone", "operator": "In", "values": ["a"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [zone]}, {"matchExpressions": [{**zone, "values": ["b"]}]}]}
    template = {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}}
    run = a_run(template=template).in_stage(excluded_nodes=[entry("node-b"), entry("node-a")])
    made = pod_manifest(run.seen(), 0)
    assert kept_off(made) == ["node-a", "node-b"] * 2
    assert made["metadata"]["annotations"] == {ANNOTATION_EXCLUDED: "node-a,node-b"}
    assert run.run["spec"]["template"] == template
    assert len(terms["nodeSelectorTerms"][0]["matchExpressions"]) == 1
