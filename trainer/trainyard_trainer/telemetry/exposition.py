"""The agent's Prometheus metrics, made from its state at each scrape.

Nothing is stored between scrapes: what the current attempt hasn't said has no series, and nothing of an attempt before
lingers. Only the agent of rank 0 hears of progress, so a run's figures come from one pod.
"""

from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from trainyard_api.status import CheckpointStatus, Progress

from ..agent.board import Board
from ..agent.snapshots import Snapshots

PROGRESS = {
    "step": "Optimizer steps done.",
    "steps": "Optimizer steps to do.",
    "loss": "Mean loss per token of the last global batch, in nats.",
    "held_out_loss": "Mean loss per token of the held-out sequences, in nats.",
    "learning_rate": "Learning rate of the last step.",
    "grad_norm": "Global gradient norm of the last step, before clipping.",
    "tokens_per_second": "Tokens trained on in a second, over all ranks.",
    "step_seconds": "Seconds that the last step took.",
    "mfu": "Model FLOPs utilisation of the last step, 0 to 1.",
    "memory_bytes": "Memory that rank 0 has had at most: allocated on its GPU, or else resident.",
    "eta_seconds": "Seconds to the end of the stage, at this speed.",
}
PHASES = ("idle", "running", "stopping", "succeeded", "failed")


class AgentMetrics(Collector):
    """What `GET /metrics` answers."""

    def __init__(
        self,
        board: Board,
        stage_metrics: Callable[[], dict[str, float]],
        snapshots: Snapshots,
        labels: dict[str, str],
    ) -> None:
        self._board = board
        self._stage_metrics = stage_metrics
        self._snapshots = snapshots
        self._names = list(labels)
        self._values = list(labels.values())

    def collect(self) -> Iterator[Metric]:
        """Every metric that has a value now."""
        state = self._board.state
        yield self._gauge("attempt", "The attempt that this agent was given; 0 before.", state.attempt)
        running = sum(rank.exit_code is None for rank in state.ranks)
        yield self._gauge("ranks", "Ranks that run in this pod.", running)
        slots = "Bytes of this pod's memory in which its ranks keep snapshots of their own."
        yield self._gauge("snapshot_slot_bytes", slots, self._snapshots.slot_bytes)
        copies = "Bytes of this pod's memory that hold copies of another worker's snapshots."
        yield self._gauge("snapshot_copy_bytes", copies, self._snapshots.copy_bytes)
        phases = GaugeMetricFamily("trainyard_agent_phase", "1 for the agent's phase.", labels=[*self._names, "phase"])
        for phase in PHASES:
            phases.add_metric([*self._values, phase], phase == state.phase)
        yield phases
        own = "Seconds that a rank takes for its own part of a step (data, forward passes), without waiting for others."
        paces = GaugeMetricFamily("trainyard_rank_own_seconds", own, labels=[*self._names, "rank"])
        for pace in state.paces:
            paces.add_metric([*self._values, str(pace.rank)], pace.seconds)
        yield paces
        if state.resumed_step is not None:
            resumed = "Step of the checkpoint that this attempt began with; 0 when it began anew."
            yield self._gauge("resumed_step", resumed, state.resumed_step)
        if progress := self._board.latest_progress:
            yield from self._progress(progress)
        if state.checkpoint:
            yield from self._checkpoint(state.checkpoint)
        for name, value in sorted(self._stage_metrics().items()):
            yield self._gauge(name, "Reported by the stage.", value)

    def _progress(self, progress: Progress) -> Iterator[Metric]:
        for name, documentation in PROGRESS.items():
            if (value := getattr(progress, name)) is not None:
                yield self._gauge(name, documentation, value)
        if progress.tokens is not None:
            tokens = CounterMetricFamily("trainyard_tokens", "Tokens trained on, over all ranks.", labels=self._names)
            tokens.add_metric(self._values, progress.tokens)
            yield tokens
        text = "Global batches that were left out because of their numbers."
        skipped = CounterMetricFamily("trainyard_skipped_batches", text, labels=self._names)
        if progress.skipped_batches is not None:
            skipped.add_metric(self._values, progress.skipped_batches)
        yield skipped

    def _checkpoint(self, checkpoint: CheckpointStatus) -> Iterator[Metric]:
        yield self._gauge("checkpoint_step", "Step of the newest committed checkpoint.", checkpoint.step)
        committed = datetime.fromisoformat(checkpoint.time).timestamp()
        yield self._gauge("checkpoint_timestamp_seconds", "When the newest checkpoint was committed.", committed)
        if checkpoint.stall_seconds is not None:
            stall = "Seconds that training stood still for the newest checkpoint."
            yield self._gauge("checkpoint_stall_seconds", stall, checkpoint.stall_seconds)
        if checkpoint.durable_seconds is not None:
            durable = "Seconds until the newest checkpoint was committed; training went on meanwhile."
            yield self._gauge("checkpoint_durable_seconds", durable, checkpoint.durable_seconds)

    def _gauge(self, name: str, documentation: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(f"trainyard_{name}", documentation, labels=self._names)
        gauge.add_metric(self._values, value)
        return gauge
