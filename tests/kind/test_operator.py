"""The operator as a tenant of the cluster: small, healthy, visible."""

import re

from conditions import eventually
from kind.cluster import SYSTEM, Namespace, kubectl
from kind.runs import small_run

MEGABYTE = 1_000_000


def test_ten_runs_fit_in_150_megabytes_and_are_counted(namespace: Namespace, operator_pod: str) -> None:
    for number in range(10):
        namespace.apply(small_run(f"queued-{number}", resources={"cpu": "64", "memory": "1Gi"}))

    def page(path: str) -> str:
        return kubectl("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{operator_pod}:8080/proxy{path}").stdout

    counted = f'trainyard_runs{{namespace="{namespace.name}",phase="Queued"}} 10.0'
    eventually(lambda: counted in page("/metrics"), 60, counted, detail=lambda: page("/metrics")[:3000])
    assert page("/healthz")
    assert page("/readyz")
    memory = kubectl("-n", SYSTEM, "exec", operator_pod, "--", "cat", "/proc/1/status").stdout
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", memory)[1]) * 1024  # type: ignore[index]
    assert resident < 150 * MEGABYTE


def test_the_operator_never_asked_for_what_it_may_not(operator_pod: str) -> None:
    metrics = kubectl("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{operator_pod}:8080/proxy/metrics").stdout
    requests = [line for line in metrics.splitlines() if line.startswith("rest_client_requests_total")]
    assert any('method="POST"' in line and 'code="201"' in line for line in requests), requests
    assert not [line for line in requests if 'code="403"' in line]


def test_events_tell_the_story_of_a_run(namespace: Namespace) -> None:
    run = namespace.apply(small_run("storied", template={"spec": {"hostNetwork": True}}))
    run_events = ("-n", namespace.name, "get", "events", "--field-selector", f"involvedObject.name={run.name}")
    eventually(lambda: "hostNetwork" in kubectl(*run_events).stdout, 30, "an event names the mistake")
