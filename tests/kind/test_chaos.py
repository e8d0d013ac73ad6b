"""Whole nodes go and come back, and the run ends with the weights of one that nothing happened to."""

import subprocess

from kind.cluster import SYSTEM, Namespace, get, kubectl
from kind.runs import small_run

STEPS = 240
NODES = ("trainyard-worker", "trainyard-worker2")


def docker(verb: str, node: str) -> None:
    """Switch a node off or on."""
    subprocess.run(["docker", verb, node], check=True, capture_output=True, timeout=60)


def test_a_node_that_is_killed_and_comes_back_costs_no_failure_and_no_bit_of_the_weights(namespace: Namespace) -> None:
    calm = namespace.apply(small_run("calm", steps=STEPS))
    calm.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")
    operators = get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/name=trainyard")["items"]
    doomed = next(node for node in NODES if node not in {pod["spec"]["nodeName"] for pod in operators})

    run = namespace.apply(small_run("stormy", steps=STEPS))
    run.until(
        lambda s: s.get("stage") == "base" and (s.get("checkpoint") or {}).get("step", 0) >= 10, 120, "has a checkpoint"
    )
    first = run.group("base")
    lost = {worker for worker in first if run.pod(worker, "base")["spec"]["nodeName"] == doomed}
    assert lost, f"no worker on {doomed}"
    docker("kill", doomed)
    try:
        run.until(lambda s: s["attempt"] == 3 and s["phase"] == "Running", 60, "trains without the node")
        assert {worker for worker, name in run.group("base").items() if name != first[worker]} == lost
    finally:
        docker("start", doomed)
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")
    kubectl("wait", "--for=condition=Ready", f"node/{doomed}", "--timeout=90s")

    (recovery,) = status["recoveries"]
    assert (recovery["cause"], recovery["tier"], recovery["node"]) == ("NodeLost", "pod", doomed)
    assert recovery["detectSeconds"] < 15
    assert status["restarts"] == {"total": 1, "failures": 0, "disruptions": 1, "hangs": 0}
    assert run.weights("folder") == calm.weights("folder")
