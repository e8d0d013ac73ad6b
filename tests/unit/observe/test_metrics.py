"""What Prometheus is told: counts of what status writes add, and runs as the store has them at that moment."""

from datetime import UTC, datetime
from itertools import pairwise

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from trainyard_api.names import ANNOTATION_FORGIVEN
from trainyard_api.status import Reason, Recovery, Status
from trainyard_operator.observe.metrics import Metrics
from trainyard_operator.observe.server import serving
from trainyard_operator.runtime.queue import WorkQueue
from trainyard_operator.runtime.store import Store

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)


def now() -> datetime:
    return NOW


def a_run(name: str, version: int = 1, **status: object) -> dict:
    metadata = {"namespace": "team", "name": name, "uid": name, "resourceVersion": str(version)}
    return {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingRun", "metadata": metadata, "status": status}


def recovered(attempt: int, **clocks: float | int) -> Recovery:
    return Recovery(time="", cause=Reason.POD_DELETED, stage="base", attempt=attempt, tier="pod", **clocks)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_recovery_counts_once_while_its_clocks_are_filled_in():
    metrics = Metrics()
    steps = [
        Status(),
        Status(recoveries=(recovered(1, detect_seconds=0.5),)),
        Status(recoveries=(recovered(1, detect_seconds=0.5, reform_seconds=3, recomputed_steps=7),)),
        Status(recoveries=(recovered(1, detect_seconds=0.5, reform_seconds=3, recomputed_steps=7), recovered(2))),
    ]
    for old, new in pairwise(steps):
        metrics.record_status(old, new)
    assert value(metrics, "trainyard_restarts_total", cause="PodDeleted", tier="pod") == 2
    assert value(metrics, "trainyard_recovery_seconds_sum", cause="PodDeleted", tier="pod", part="detect") == 0.5
    assert value(metrics, "trainyard_recovery_seconds_sum", cause="PodDeleted", tier="pod", part="reform") == 3
    assert value(metrics, "trainyard_lost_steps_total") == 7


def test_a_status_that_says_the_same_of_recoveries_counts_nothing():
    metrics = Metrics()
    same = Status(recoveries=(recovered(1, detect_seconds=1, reform_seconds=1, recomputed_steps=1),))
    metrics.record_status(same, same)
    assert value(metrics, "trainyard_restarts_total", cause="PodDeleted", tier="pod") is None


def test_runs_are_shown_as_the_store_has_them_and_vanish_with_it():
    metrics, store = Metrics(), Store(lambda key: None, now)
    metrics.show_runs(store.runs, now)
    going = a_run(
        "going",
        phase="Running",
        reason="Training",
        stage="base",
        progress={"step": 40, "steps": 100, "loss": 2.5},
        checkpoint={"step": 40, "uri": "file:///x", "time": "2026-01-01T12:00:00Z"},
    )
    store.put(going)
    store.put(a_run("new"))
    base = {"namespace": "team", "run": "going", "stage": "base"}
    assert value(metrics, "trainyard_run_info", **base, phase="Running", reason="Training") == 1
    assert value(metrics, "trainyard_run_step", **base) == 40
    assert value(metrics, "trainyard_run_loss", **base) == 2.5
    assert value(metrics, "trainyard_run_checkpoint_age_seconds", **base) == 30
    assert value(metrics, "trainyard_runs", namespace="team", phase="Running") == 1
    assert value(metrics, "trainyard_runs", namespace="team", phase="Pending") == 1
    store.remove(going)
    assert value(metrics, "trainyard_run_step", **base) is None
    assert value(metrics, "trainyard_runs", namespace="team", phase="Running") is None


def test_nodes_that_a_run_keeps_off_count_until_they_are_forgiven_or_their_time_is_over():
    metrics, store = Metrics(), Store(lambda key: None, now)
    metrics.show_runs(store.runs, now)

    def kept_off(node: str, until: str) -> dict:
        return {"node": node, "cause": Reason.NODE_LOST, "time": "2026-01-01T11:00:00Z", "until": until}

    nodes = [
        kept_off("a", "2026-01-01T13:00:00Z"),
        kept_off("over", "2026-01-01T12:00:00Z"),
        kept_off("forgiven", "2026-01-01T13:00:00Z"),
    ]
    run = a_run("going", phase="Running", reason="Training", stage="base", excludedNodes=nodes)
    run["metadata"]["annotations"] = {ANNOTATION_FORGIVEN: '{"forgiven": "2026-01-01T11:30:00Z"}'}
    store.put(run)
    base = {"namespace": "team", "run": "going", "stage": "base"}
    assert value(metrics, "trainyard_run_excluded_nodes", **base) == 1


def test_a_finished_run_has_no_checkpoint_that_grows_old():
    metrics, store = Metrics(), Store(lambda key: None, now)
    metrics.show_runs(store.runs, now)
    checkpoint = {"step": 100, "uri": "file:///x", "time": "2026-01-01T12:00:00Z"}
    store.put(a_run("done", phase="Succeeded", reason="Completed", stage="base", checkpoint=checkpoint))
    labels = {"namespace": "team", "run": "done", "stage": "base"}
    assert value(metrics, "trainyard_run_checkpoint_age_seconds", **labels) is None


async def test_the_page_is_what_prometheus_reads_and_has_no_creation_times():
    metrics, queue = Metrics(), WorkQueue()
    metrics.show_queue(queue)
    metrics.show_lags(lambda: 0.25, lambda: 12.0)
    metrics.record_pass("succeeded", 0.02)
    metrics.record_request("GET", "200")
    queue.add(("team", "going"))
    troubles = ["the first lists are not in"]
    async with serving(metrics, 0, lambda: troubles, "127.0.0.1") as port, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
        async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "the first lists are not in\n")
        troubles.clear()
        async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
            assert answer.status == 200
        async with session.get(f"http://127.0.0.1:{port}/healthz") as answer:
            assert answer.status == 200
    assert families["workqueue_depth"].samples[0].value == 1
    assert families["workqueue_adds"].samples[0].labels == {"name": "trainingruns"}
    assert families["trainyard_watch_age_seconds"].samples[0].value == 12
    assert families["rest_client_requests"].samples[0].labels == {"code": "200", "method": "GET"}
    assert not [name for name in families if name.endswith("_created")]
