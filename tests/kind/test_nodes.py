"""A node that a rule puts a failure down to: the run leaves it, `trainyard nodes` tells, and it may be forgiven."""

from pathlib import Path
from typing import Any

from conditions import eventually
from kind.cluster import Namespace, Run, trainyard
from kind.faults import kill_rank
from kind.runs import a_pair
from trainyard_api.names import ANNOTATION_EXCLUDED

KILLED = {"causes": ["ProcessFailed"], "exitCodes": [137], "action": "RestartExcludingNode"}


def trains(run: Run, attempt: int) -> dict[str, Any]:
    """The status once this attempt is training."""
    return run.until(
        lambda s: (s.get("stage"), s.get("phase"), s.get("attempt")) == ("base", "Running", attempt),
        180,
        f"attempt {attempt} trains",
    )


def kept_off(run: Run) -> str:
    """The nodes that worker 1's newest pod was made to keep off."""
    return str(run.pod(1, "base")["metadata"].get("annotations", {}).get(ANNOTATION_EXCLUDED, ""))


def test_a_run_leaves_the_node_that_a_rule_excludes_until_it_is_forgiven(
    namespace: Namespace, kubeconfig: Path
) -> None:
    run = namespace.apply(a_pair("wary", steps=100_000, recovery={"rules": [KILLED]}))
    attempt = run.until(lambda s: s.get("stage") == "base" and s.get("phase") == "Running", 180, "trains")["attempt"]
    node = run.pod(1, "base")["spec"]["nodeName"]
    kill_rank(run, 1, "base")

    status = trains(run, attempt + 1)
    assert [(each["node"], each["cause"]) for each in status["excludedNodes"]] == [(node, "ProcessFailed")]
    assert "recovery.rules[0]" in status["excludedNodes"][0]["message"]
    assert node not in {run.pod(worker, "base")["spec"]["nodeName"] for worker in range(2)}
    assert kept_off(run) == node
    header, row = trainyard(kubeconfig, "nodes", "-n", namespace.name).splitlines()
    assert header.split() == ["NODE", "CAUSE", "UNTIL", "RUN", "MESSAGE"]
    assert row.split()[:2] == [node, "ProcessFailed"]
    assert row.split()[3] == f"{namespace.name}/wary"

    said = trainyard(kubeconfig, "nodes", "forgive", node, "-n", namespace.name)
    assert said == f"run {namespace.name}/wary forgives {node}\n"
    assert trainyard(kubeconfig, "nodes", "-n", namespace.name) == ""
    run.delete_pod(1, "base", force=True)
    trains(run, attempt + 2)
    eventually(lambda: not kept_off(run), 30, "a pod is made that may use the node again", detail=lambda: kept_off(run))
