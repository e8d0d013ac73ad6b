"""The chart's own test, with agents that serve HTTPS, and taking the chart away. This file sorts last: afterwards there is no
operator.
"""

import subprocess

from conditions import eventually
from kind.cluster import CONTEXT, SYSTEM, Namespace, get, kubectl
from kind.runs import small_run
from trainyard_api.names import LABEL_STAGE, LABEL_TLS

HELM = ("helm", "--kube-context", CONTEXT, "-n", SYSTEM)


def helm(*arguments: str) -> str:
    """Run helm against the test cluster."""
    done = subprocess.run([*HELM, *arguments], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"helm {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def ready_with_tls() -> set[str]:
    """Stages with a pod whose agent serves HTTPS and has answered the kubelet."""
    pods = get("pods", "-A", "-l", f"{LABEL_TLS}=true")["items"]
    return {
        pod["metadata"]["labels"][LABEL_STAGE]
        for pod in pods
        if any((each["type"], each["status"]) == ("Ready", "True") for each in pod["status"].get("conditions", ()))
    }


def test_the_charts_own_test_trains_a_small_run_whose_agents_serve_https() -> None:
    on = ("--reuse-values", "--set", "agents.tls=true", "--wait", "--timeout", "120s")
    helm("upgrade", "trainyard", "charts/trainyard", *on)
    command = [*HELM, "test", "trainyard", "--timeout", "200s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as test:
        try:
            seen = eventually(
                lambda: "base" in ready_with_tls() or (test.poll() is not None and "no more"), 200, "HTTPS"
            )
            output, _ = test.communicate(timeout=240)
        finally:
            test.kill()
    assert "Phase:          Succeeded" in output, output
    assert seen is True, "the test ended before an agent had answered the kubelet over HTTPS"


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
