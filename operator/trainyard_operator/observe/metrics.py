"""The operator's Prometheus metrics. client-go's names for queue and API requests, so that known dashboards fit.

Aggregates are counters that survive a deleted run; what is said of one run is read from the store at each scrape, so it
vanishes with the run. Nothing per run is a histogram, and nothing is per pod: cardinality is a few series a run.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from trainyard_api.status import FINISHED, Phase, Status

from ..decide.observation import parse_time
from ..decide.suspects import unforgiven

disable_created_metrics()  # type: ignore[no-untyped-call]

QUEUE = "trainingruns"
"""The one queue's `name`, a label that dashboards for client-go group by."""
RECOVERY_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 900)
PASS_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60)
RUN_LABELS = ("namespace", "run", "stage")

Run = dict[str, Any]
"""A TrainingRun as JSON."""


class Queue(Protocol):
    """What is shown of the work queue: how many keys are in it, and how many were ever added and retried."""

    adds: int
    retries: int

    def __len__(self) -> int: ...


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

        self._restarts = counter("trainyard_restarts_total", "Recoveries that were begun.", "cause", "tier")
        self._lost_steps = counter("trainyard_lost_steps_total", "Steps that had to be computed again.")
        self._recovery = histogram(
            "trainyard_recovery_seconds",
            "Seconds to detect that something ended, and to have all ranks started again.",
            RECOVERY_BUCKETS,
            "cause",
            "tier",
            "part",
        )
        self._passes = counter("trainyard_reconcile_total", "Reconcile passes.", "result")
        self._pass_seconds = histogram("trainyard_reconcile_seconds", "Duration of a pass.", PASS_BUCKETS)
        self._work = histogram("workqueue_work_duration_seconds", "Time that a key is worked on.", PASS_BUCKETS, "name")
        self._queued = histogram("workqueue_queue_duration_seconds", "Time in the queue.", PASS_BUCKETS, "name")
        self._ghosts = counter("trainyard_ghosts_dropped_total", "Objects whose deletion a watch had missed.")
        self._requests = counter("rest_client_requests_total", "Requests to the API server.", "code", "method")

    def record_pass(self, result: str, seconds: float) -> None:
        """Count a reconcile pass."""
        self._passes.labels(result).inc()
        self._pass_seconds.observe(seconds)
        self._work.labels(QUEUE).observe(seconds)

    def record_queued(self, seconds: float) -> None:
        """Count a key that was taken from the queue, after so long in it."""
        self._queued.labels(QUEUE).observe(seconds)

    def record_request(self, method: str, code: str) -> None:
        """Count a request to the API server."""
        self._requests.labels(code, method).inc()

    def record_ghosts(self, count: int) -> None:
        """Count what a re-list has dropped."""
        self._ghosts.inc(count)

    def record_status(self, old: Status, new: Status) -> None:
        """Turn what a status write has added about recoveries into counts. Their clocks are filled in bit by bit."""
        before = {recovery.attempt: recovery for recovery in old.recoveries}
        for recovery in new.recoveries:
            known = before.get(recovery.attempt)
            if known is None:
                self._restarts.labels(recovery.cause, recovery.tier).inc()
            for part in ("detect", "reform"):
                seconds = getattr(recovery, f"{part}_seconds")
                if seconds is not None and (known is None or getattr(known, f"{part}_seconds") is None):
                    self._recovery.labels(recovery.cause, recovery.tier, part).observe(seconds)
            if recovery.recomputed_steps is not None and (known is None or known.recomputed_steps is None):
                self._lost_steps.inc(recovery.recomputed_steps)

    def show_queue(self, queue: Queue) -> None:
        """Show the work queue at each scrape."""
        self.registry.register(_QueueCollector(queue))

    def show_runs(self, runs: Callable[[], list[Run]], now: Callable[[], datetime]) -> None:
        """Show the runs that there are at each scrape."""
        self.registry.register(_RunCollector(runs, now))

    def show_leadership(self, leads: Callable[[], bool], lease: str) -> None:
        """Show whether this process acts, under client-go's name."""
        master = Gauge(
            "leader_election_master_status",
            "1 if this process holds the Lease of that name, else 0.",
            ["name"],
            registry=self.registry,
        )
        master.labels(lease).set_function(leads)

    def show_lags(self, loop_lag: Callable[[], float], watch_age: Callable[[], float]) -> None:
        """Show how late the event loop is, and since when the quietest watch has given no sign of life, in seconds."""
        lag = Gauge(
            "trainyard_loop_lag_seconds",
            "Lateness of the event loop, the worst of the last minute.",
            registry=self.registry,
        )
        lag.set_function(loop_lag)
        age = Gauge(
            "trainyard_watch_age_seconds",
            "Time since the quietest watch was last known to be alive.",
            registry=self.registry,
        )
        age.set_function(watch_age)


class _QueueCollector(Collector):
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("workqueue_depth", "Runs that wait for a pass.", labels=["name"])
        depth.add_metric([QUEUE], len(self._queue))
        adds = CounterMetricFamily("workqueue_adds_total", "Runs ever put into the queue.", labels=["name"])
        adds.add_metric([QUEUE], self._queue.adds)
        retries = CounterMetricFamily("workqueue_retries_total", "Passes to be tried again.", labels=["name"])
        retries.add_metric([QUEUE], self._queue.retries)
        yield from (depth, adds, retries)


class _RunCollector(Collector):
    """A few gauges a run, and how many runs are in which phase."""

    def __init__(self, runs: Callable[[], list[Run]], now: Callable[[], datetime]) -> None:
        self._runs = runs
        self._now = now

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        phases = GaugeMetricFamily("trainyard_runs", "Runs by phase.", labels=["namespace", "phase"])
        info = GaugeMetricFamily(
            "trainyard_run_info", "1, with what a run is doing.", labels=[*RUN_LABELS, "phase", "reason"]
        )
        step = GaugeMetricFamily("trainyard_run_step", "Last optimizer step of the stage.", labels=RUN_LABELS)
        loss = GaugeMetricFamily("trainyard_run_loss", "Training loss of that step, nats a token.", labels=RUN_LABELS)
        age = GaugeMetricFamily(
            "trainyard_run_checkpoint_age_seconds",
            "Age of the newest checkpoint of a run that goes on.",
            labels=RUN_LABELS,
        )
        stragglers = GaugeMetricFamily(
            "trainyard_run_stragglers", "Ranks that are persistently slower than the others.", labels=RUN_LABELS
        )
        excluded = GaugeMetricFamily(
            "trainyard_run_excluded_nodes", "Nodes that a run keeps off after failures.", labels=RUN_LABELS
        )
        tally: Tally[tuple[str, str]] = Tally()
        for run in self._runs():
            status = Status.read_stored(run.get("status") or {})
            namespace = run["metadata"]["namespace"]
            labels = [namespace, run["metadata"]["name"], status.stage or ""]
            tally[namespace, status.phase] += 1
            info.add_metric([*labels, status.phase, status.reason], 1)
            if status.progress:
                step.add_metric(labels, status.progress.step)
                if status.progress.loss is not None:
                    loss.add_metric(labels, status.progress.loss)
            if status.stragglers and status.phase == Phase.RUNNING:
                stragglers.add_metric(labels, len(status.stragglers))
            nodes = {
                each.node
                for each in unforgiven(status, run["metadata"].get("annotations") or {})
                if parse_time(each.until) > self._now()
            }
            if nodes and status.phase not in FINISHED:
                excluded.add_metric(labels, len(nodes))
            if status.checkpoint and status.phase not in (*FINISHED, Phase.SUSPENDED):
                saved = parse_time(status.checkpoint.time)
                age.add_metric(labels, (self._now() - saved).total_seconds())
        for (namespace, phase), count in tally.items():
            phases.add_metric([namespace, phase], count)
        yield from (phases, info, step, loss, age, stragglers, excluded)
