"""Runs that are suspended and resumed, stopped by their deadline, and deleted, with and without what they made."""

import json
import re
from pathlib import Path

from conditions import eventually
from kind.cluster import SYSTEM, Namespace, Run, kubectl, trainyard
from kind.runs import PAIR_STEPS, seldom_saving, small_run


def tell(kubeconfig: Path, run: Run, verb: str, *flags: str) -> str:
    """What a verb prints of a run of the cluster."""
    return trainyard(kubeconfig, verb, run.name, "-n", run.namespace.name, *flags)


def live_pods(run: Run) -> list[str]:
    pods = run.namespace.pods(f"trainyard.dev/run={run.name}")
    return [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]


def test_a_suspended_run_saves_holds_nothing_and_resumed_ends_with_the_same_weights(
    namespace: Namespace, kubeconfig: Path, operator_pod: str, undisturbed_pair: Run
) -> None:
    run = namespace.apply(seldom_saving("resting"))
    run.until_step(20)
    tell(kubeconfig, run, "suspend")
    suspended = run.until(lambda s: s.get("phase") == "Suspended", 90, "is suspended")
    assert live_pods(run) == []
    assert suspended["checkpoint"]["step"] == run.steps()[-1] >= 20
    assert suspended["observedGeneration"] == 2
    assert "activeSince" not in suspended
    page = kubectl("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{operator_pod}:8080/proxy/metrics").stdout
    assert re.search(rf'trainyard_runs{{namespace="{namespace.name}",phase="Suspended"}} 1\.0', page)

    tell(kubeconfig, run, "resume")
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds after it was resumed")
    assert (status["restarts"]["total"], status.get("recoveries", [])) == (0, [])
    assert status["activeSeconds"] > suspended["activeSeconds"]
    assert run.steps() == list(range(1, PAIR_STEPS + 1))
    assert run.trained() == undisturbed_pair.trained()


def test_a_run_past_its_deadline_saves_and_fails_and_its_time_to_live_may_still_be_set(namespace: Namespace) -> None:
    run = namespace.apply(seldom_saving("late", steps=100_000, activeDeadlineSeconds=600))
    run.until_step(5)
    spent = run.status["activeSeconds"]
    patch(run, activeDeadlineSeconds=max(1, int(spent)))

    def failed() -> bool:
        return bool(run.status.get("phase") == "Failed")

    eventually(failed, 90, "the run fails", detail=lambda: json.dumps(run.status, indent=1))
    status = run.status
    assert status["reason"] == "DeadlineExceeded"
    assert live_pods(run) == []
    assert status["checkpoint"]["step"] == run.steps()[-1]
    assert status["restarts"]["total"] == 0

    patch(run, ttlSecondsAfterFinished=1)
    listed = ("-n", namespace.name, "get", "trainingruns,pods", "-o", "name")
    eventually(lambda: "late" not in kubectl(*listed).stdout, 90, "the run and its pods are deleted")
    assert run.steps(), "what it made stays"


def patch(run: Run, **spec: object) -> None:
    kubectl(
        "-n", run.namespace.name, "patch", "trainingrun", run.name, "--type=merge", "-p", json.dumps({"spec": spec})
    )


def test_a_run_is_deleted_with_all_that_it_made_if_that_is_asked_for(namespace: Namespace, kubeconfig: Path) -> None:
    manifest = small_run("rubbish")
    del manifest["spec"]["stages"][1:]
    run = namespace.apply(manifest)
    run.until(lambda s: s.get("phase") == "Succeeded", 180, "succeeds")
    made = run.folder
    assert (made / "corpus" / "artifact.json").exists()
    said = tell(kubeconfig, run, "delete", "--artifacts")
    assert f"file:///storage/{namespace.name}/rubbish is deleted" in said
    assert not made.exists()
    left = kubectl("-n", namespace.name, "get", "trainingrun", "rubbish", check=False)
    assert "not found" in left.stderr
