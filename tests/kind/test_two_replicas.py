"""Two operators, one acts: the other goes on where a frozen, a killed or a leaving one stops, and no pod is made twice.

This machine and the nodes have one clock, so what the Lease says of when it was taken may be compared with when the leader
was struck. Figures are printed; the bounds are what is promised.
"""

import time
from datetime import datetime
from typing import Any

from conditions import eventually
from kind.cluster import SYSTEM, Namespace, get, kubectl
from kind.faults import signaller
from kind.runs import small_run
from trainyard_api.names import LABEL_RANK, LABEL_RUN, LABEL_STAGE

WORKERS = 200
"""Enough pods for a leader to be struck while it makes them: they take some seconds."""
CROWDED = {"cpu": "64"}
"""More than any node has, so pods wait, and cost nothing."""


def lease() -> dict[str, Any]:
    return dict(get("-n", SYSTEM, "lease", "trainyard")["spec"])


def taken_by_another(before: str) -> float:
    """When another one than that took the Lease, once it has."""

    def taken() -> float | None:
        spec = lease()
        other = spec["holderIdentity"] not in ("", before)
        return datetime.fromisoformat(spec["acquireTime"]).timestamp() if other else None

    return eventually(taken, 60, f"another operator than {before} leads", detail=lambda: str(lease()))


def restarts(pod: str) -> int:
    [container] = get("-n", SYSTEM, "pod", pod)["status"]["containerStatuses"]
    return int(container["restartCount"])


def both_ready() -> None:
    kubectl("-n", SYSTEM, "rollout", "status", "deployment/trainyard", "--timeout=90s")


def crowded_group(name: str) -> dict[str, Any]:
    """A run whose second stage is a group of pods that find no node."""
    run = small_run(name, workers=WORKERS)
    run["spec"]["stages"][1]["resources"] = CROWDED
    return run


def test_a_leader_frozen_between_two_creates_is_succeeded_and_wakes_to_write_nothing(
    namespace: Namespace, operator_pod: str
) -> None:
    both_ready()
    strike, died_before = signaller(operator_pod), restarts(operator_pod)
    run = namespace.apply(crowded_group("frozen"))

    def group() -> list[dict[str, Any]]:
        return namespace.pods(f"{LABEL_RUN}={run.name}", f"{LABEL_STAGE}=base")

    eventually(group, 120, "the leader makes pods")
    strike("STOP")
    frozen = time.time()
    made = {pod["metadata"]["uid"] for pod in group()}
    assert 0 < len(made) < WORKERS
    seconds = taken_by_another(operator_pod) - frozen
    print(f"leader frozen with {len(made)} of {WORKERS} pods made: the other leads after {seconds:.1f} s")
    assert seconds < 15
    eventually(lambda: len(group()) >= WORKERS, 60, "the other one makes the rest")

    strike("CONT")
    eventually(lambda: restarts(operator_pod) > died_before, 60, "the one that woke has ended")
    pods = group()
    assert sorted(int(pod["metadata"]["labels"][LABEL_RANK]) for pod in pods) == list(range(WORKERS))
    assert made <= {pod["metadata"]["uid"] for pod in pods}
    assert run.status["attempt"] == 2
    assert lease()["holderIdentity"] != operator_pod
    both_ready()


def test_a_leader_that_is_told_to_end_is_succeeded_at_once(namespace: Namespace, operator_pod: str) -> None:
    both_ready()
    told = time.time()
    kubectl("-n", SYSTEM, "delete", "pod", operator_pod, "--wait=false")
    seconds = taken_by_another(operator_pod) - told
    print(f"leader told to end: the other leads after {seconds:.1f} s")
    assert seconds < 5, "2 s are promised from its SIGTERM, which kubectl and the kubelet take their time for"
    run = namespace.apply(small_run("after-sigterm", resources=CROWDED))
    run.until(lambda s: s.get("phase"), 15, "is seen")
    both_ready()


def test_after_a_killed_leader_somebody_acts_within_15_seconds(namespace: Namespace, operator_pod: str) -> None:
    both_ready()
    signaller(operator_pod)("KILL")
    killed = time.time()
    run = namespace.apply(small_run("after-sigkill", resources=CROWDED))
    run.until(lambda s: s.get("phase"), 30, "is seen")
    seconds = time.time() - killed
    print(f"leader killed: {lease()['holderIdentity']} ({operator_pod} led) has acted after {seconds:.1f} s")
    assert seconds < 15
    both_ready()
