"""The chart's own test, and taking the chart away. This file sorts last: afterwards there is no operator."""

import subprocess

from conditions import eventually
from kind.cluster import CONTEXT, SYSTEM, Namespace, get, kubectl
from kind.runs import small_run


def helm(*arguments: str) -> str:
    """Run helm against the test cluster."""
    done = subprocess.run(
        ["helm", "--kube-context", CONTEXT, "-n", SYSTEM, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"helm {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_charts_own_test_trains_a_small_run() -> None:
    assert "Phase:          Succeeded" in helm("test", "trainyard", "--timeout", "200s")


def test_uninstalling_keeps_the_runs_when_told_to(namespace: Namespace) -> None:
    namespace.apply(small_run("kept", resources={"cpu": "64", "memory": "1Gi"}))
    values = helm("get", "values", "trainyard", "--all")
    assert "keep: true" in values, "keeping is the default"
    helm("uninstall", "trainyard", "--wait", "--timeout", "60s")
    eventually(lambda: not get("-n", SYSTEM, "pods")["items"], 60, "the operator is gone")
    eventually(lambda: not get("-n", SYSTEM, "leases")["items"], 60, "its Lease is gone with it")
    assert [run["metadata"]["name"] for run in get("-n", namespace.name, "trainingruns")["items"]] == ["kept"]


def test_what_is_left_is_the_definition_and_it_can_be_deleted_with_all_runs(namespace: Namespace) -> None:
    kubectl("delete", "customresourcedefinition", "trainingruns.trainyard.dev", "--timeout=60s")
    eventually(lambda: not namespace.pods(), 60, "the pods of all runs are gone")
