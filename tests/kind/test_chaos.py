"""Everything that can be killed is killed, and the run ends with the weights of one that nothing happened to."""

import json
import time

from conditions import eventually
from kind.cluster import SYSTEM, Namespace, Run, kubectl
from kind.faults import (
    kill_agent,
    kill_node,
    leading_node,
    paused_api_server,
    signaller,
    start_node,
    use_up_memory,
)
from kind.runs import a_pair
from trainyard_api.names import LABEL_RANK, LABEL_RUN, LABEL_STAGE

NODES = ("trainyard-worker", "trainyard-worker2")


def training(namespace: Namespace, name: str) -> Run:
    """A run that has a checkpoint."""
    run = namespace.apply(a_pair(name))
    run.until_step(10, saved=10)
    return run


def test_a_killed_agent_costs_its_container_and_not_its_pod(namespace: Namespace, undisturbed_pair: Run) -> None:
    run = training(namespace, "headless")
    before = run.pod(1, "base")
    pod = kill_agent(run, 1, "base")
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")

    (recovery,) = status["recoveries"]
    assert (recovery["cause"], recovery["tier"], recovery["pod"]) == ("ProcessFailed", "container", pod)
    assert (recovery["exitCode"], status["restarts"]["failures"]) == (137, 1)
    after = run.pod(1, "base")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert [own["restartCount"] for own in after["status"]["containerStatuses"]] == [1]
    assert run.trained() == undisturbed_pair.trained()


def test_a_leader_killed_between_two_creates_is_succeeded_by_one_that_makes_the_rest(
    namespace: Namespace, undisturbed_pair: Run, operator_pod: str
) -> None:
    quota = {"kind": "ResourceQuota", "apiVersion": "v1", "metadata": {"name": "half"}, "spec": {"hard": {"pods": "1"}}}
    kubectl("-n", namespace.name, "apply", "-f", "-", given=json.dumps(quota))
    run = namespace.apply(a_pair("halved"))

    def group() -> dict[str, int]:
        pods = namespace.pods(f"{LABEL_RUN}={run.name}", f"{LABEL_STAGE}=base")
        return {pod["metadata"]["uid"]: int(pod["metadata"]["labels"][LABEL_RANK]) for pod in pods}

    run.until(lambda s: (s.get("stage"), s.get("reason")) == ("base", "PodRefused"), 120, "may make no more pods")
    eventually(lambda: len(group()) == 1, 30, "one pod of two is made")
    made = group()
    signaller(operator_pod)("KILL")  # and its pod goes, or it would lead again under its name
    kubectl("-n", SYSTEM, "delete", "pod", operator_pod, "--force", "--grace-period=0")
    kubectl("-n", namespace.name, "delete", "resourcequota", "half")
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")

    assert sorted(group().values()) == [0, 1]
    assert made.items() <= group().items()
    assert (status.get("recoveries", []), status["attempt"]) == ([], 2), "each of the two stages has one attempt"
    assert run.trained() == undisturbed_pair.trained()


def test_a_rank_that_runs_out_of_memory_says_so_and_its_pod_lives_on(
    namespace: Namespace, undisturbed_pair: Run
) -> None:
    run = training(namespace, "hungry")
    first = run.group("base")
    pod = use_up_memory(run, 1, "base")
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")

    (recovery,) = status["recoveries"]
    assert (recovery["cause"], recovery["tier"], recovery["pod"]) == ("OutOfMemory", "ranks", pod)
    assert "raise spec.resources.memory" in recovery["message"]
    assert run.group("base") == first
    assert run.trained() == undisturbed_pair.trained()


def test_training_goes_on_while_the_api_server_is_silent(namespace: Namespace, undisturbed_pair: Run) -> None:
    run = training(namespace, "unheard")
    with paused_api_server():
        time.sleep(20)  # longer than a lease lasts and than any call may take
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")
    assert status.get("recoveries", []) == []
    assert run.trained() == undisturbed_pair.trained()


def test_a_node_that_is_killed_and_comes_back_costs_no_failure_and_no_bit_of_the_weights(
    namespace: Namespace, undisturbed_pair: Run
) -> None:
    doomed = next(node for node in NODES if node != leading_node())

    run = training(namespace, "stormy")
    first = run.group("base")
    lost = {worker for worker in first if run.pod(worker, "base")["spec"]["nodeName"] == doomed}
    assert lost, f"no worker on {doomed}"
    kill_node(doomed)
    try:
        run.until(lambda s: s["attempt"] == 3 and s["phase"] == "Running", 90, "trains without the node")
        assert {worker for worker, name in run.group("base").items() if name != first[worker]} == lost
    finally:
        start_node(doomed)
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")
    kubectl("wait", "--for=condition=Ready", f"node/{doomed}", "--timeout=90s")

    (recovery,) = status["recoveries"]
    assert (recovery["cause"], recovery["tier"], recovery["node"]) == ("NodeLost", "pod", doomed)
    assert recovery["detectSeconds"] < 15
    assert status["restarts"]["disruptions"] == status["restarts"]["total"] == 1
    assert run.trained() == undisturbed_pair.trained()
