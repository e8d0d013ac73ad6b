"""A pod is evicted in the middle of training: its last step is saved within the grace period, and nothing is done again."""

import json

from conditions import eventually
from kind.cluster import Namespace, Run, kubectl
from kind.runs import PAIR_STEPS, seldom_saving
from trainyard_api.exit_codes import ExitCode


def test_an_evicted_pod_saves_its_last_step_and_no_step_is_done_again(
    namespace: Namespace, undisturbed_pair: Run
) -> None:
    run = namespace.apply(seldom_saving("evicted"))
    run.until_step(20)
    evicted = run.pod(1, "base")
    assert evicted["spec"]["terminationGracePeriodSeconds"] >= 30
    pod = evicted["metadata"]["name"]
    # A finalizer keeps the ended pod for us to see how it ended.
    hold = json.dumps({"metadata": {"finalizers": ["trainyard.dev/test"]}})
    kubectl("-n", namespace.name, "patch", "pod", pod, "--type=merge", "-p", hold)
    try:
        run.evict_pod(1, "base")
        assert eventually(lambda: exit_code(namespace, pod) is not None, 90, f"{pod} ends")
        assert exit_code(namespace, pod) == ExitCode.STOPPED
    finally:
        released = json.dumps({"metadata": {"finalizers": None}})
        kubectl("-n", namespace.name, "patch", "pod", pod, "--type=merge", "-p", released)
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds after the eviction")

    [recovery] = status["recoveries"]
    assert recovery["cause"] == "Evicted"
    assert recovery["resumedStep"] >= 20, "the checkpoint of the stop, for there was no other"
    assert run.steps() == list(range(1, PAIR_STEPS + 1))
    assert run.trained() == undisturbed_pair.trained()


def exit_code(namespace: Namespace, pod: str) -> int | None:
    """How the pod's trainer has ended; None while it runs."""
    answer = kubectl("-n", namespace.name, "get", "pod", pod, "-o", "json")
    for container in json.loads(answer.stdout)["status"].get("containerStatuses", []):
        if terminated := container["state"].get("terminated"):
            return int(terminated["exitCode"])
    return None
