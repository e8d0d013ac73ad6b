"""What training says of itself, a step at a time: metrics.jsonl for plots, TensorBoard's events, `Progress` for the status.

metrics.jsonl holds {time, attempt, step, position, sequences, loss, learning_rate, grad_norm, tokens, tokens_per_second,
step_seconds, mfu, memory_bytes, seconds: {data, forward, backward, optimizer, checkpoint, wait}} a step (and generate and
score in seconds where responses are drawn), the last three of rank 0, and {time, attempt, step, held_out_loss} a validation,
with held_out_loss_<stage> for each part of a
mixture. `position` is the first of the step's `sequences` in the order of data, so the rows of each step's last attempt
are a ledger of what was trained on. A batch that was left out is a line {time, attempt, step, fault: {kind, action, what,
loss, grad_norm, position, sequences, samples}} before that of its step; `samples` are those whose own loss was no number, where
that can be told, else all of the batch. Steps that are done again after a recovery are there
again, under their attempt.
Speeds are of one step: a mean over the attempt would hide a stall.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from trainyard_api.status import CheckpointStatus, Progress
from trainyard_api.training_stages import TrainingStage
from transformers import PretrainedConfig

from ..checkpoint.memory import Found
from ..engine.numerics import Fault
from ..engine.step_times import Part, own_seconds
from ..group import Group
from ..pulse import Pulse
from ..telemetry.events import header, scalars, texts
from ..telemetry.trackers import Trackers
from ..telemetry.utilisation import peak_memory_bytes, utilisation_a_token
from .metrics_file import MetricsFile

_SILENT_SECONDS = 1.0
_PLACES = ("position", "sequences")
"""Where a step was in the data: for a ledger, not for curves."""


class TrainingProgress:
    """Records steps. That a rank lives each one tells its agent; all else is rank 0's to tell."""

    def __init__(
        self, stage: TrainingStage, config: PretrainedConfig, device: torch.device, group: Group, pulse: Pulse
    ) -> None:
        self.stage, self.group, self._device = stage, group, device
        self._utilisation = utilisation_a_token(stage, config, device, group.world_size)
        self._pulse = pulse
        self._last: dict[str, Any] = {"steps": stage.steps}
        self._file = MetricsFile(group) if group.rank == 0 else None
        self._events = MetricsFile(group, f"tensorboard/events.out.tfevents.{group.attempt:06}") if self._file else None
        self._samples: MetricsFile | None = None
        self._trackers = Trackers(stage.telemetry, group) if self._file else None
        if self._events:
            self._events.append(header(time.time()))
        self._trouble = ""
        self._times: dict[Part, float] = {}
        self._clock = time.monotonic()
        self._seconds_a_step = 0.0
        self._eta = 0.0
        self._reported = 0.0

    def resumed(self, found: Found | None, skipped_batches: int) -> None:
        """Report what this attempt starts from."""
        self._last |= {"skipped_batches": skipped_batches} if skipped_batches else {}
        if self._file and found:
            restoring = {"restore_seconds": found.seconds, "restored_bytes": found.bytes}
            self.group.report(resumed_step=found.manifest.step, restored_from=found.source, metrics=restoring)
        elif self._file:
            self.group.report(resumed_step=0)

    def start_clock(self) -> None:
        """A step begins here; what came before (saving, validating) isn't its time."""
        self._clock = time.monotonic()

    def step(
        self,
        step: int,
        positions: range,
        *,
        loss: float,
        figures: dict[str, float],
        learning_rate: float,
        grad_norm: float,
        times: dict[Part, float],
    ) -> None:
        """Record a step that is done, on these positions in the order of data, which this rank spent these `times` on."""
        seconds = time.monotonic() - self._clock
        self._pulse.step(step, own_seconds(times))
        self._seconds_a_step = seconds if not self._seconds_a_step else 0.9 * self._seconds_a_step + 0.1 * seconds
        step_tokens = self.stage.tokens_a_step
        if not self._file:
            return
        self._times = {part: round(spent, 5) for part, spent in times.items()}
        self._record(
            step,
            position=positions.start,
            sequences=len(positions),
            loss=loss,
            **figures,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens=step * step_tokens,
            tokens_per_second=round(step_tokens / seconds, 1),
            step_seconds=round(seconds, 4),
            **({"mfu": round(self._utilisation * step_tokens / seconds, 4)} if self._utilisation else {}),
            memory_bytes=peak_memory_bytes(self._device),
        )

    def fault(self, fault: Fault, positions: range, where: str, samples: dict[str, list[int]]) -> None:
        """Record that the batch at these positions was left out. The fault is in some of its sequences, said in words, or in
        all: in these samples by prepare stage.
        """
        if not self._file:
            return
        figures = {"loss": fault.loss, "grad_norm": fault.grad_norm}
        found = {"kind": fault.kind, "action": fault.action, "what": fault.what} | {
            name: value for name, value in figures.items() if math.isfinite(value)
        }
        batch = {"position": positions.start, "sequences": len(positions), "samples": samples}
        self._write(fault.step, fault=found | batch)
        self._last |= {
            "skipped_batches": self._last.get("skipped_batches", 0) + 1,
            "last_fault": f"step {fault.step}, {where}: {fault.what}",
        }
        print(f"{fault.action}: {self._last['last_fault']}", file=sys.stderr)
        self._report()

    def held_out(self, step: int, losses: dict[str, float]) -> None:
        """Record a validation: `held_out_loss`, and those of a mixture's parts."""
        self._record(step, **losses)

    def samples(self, step: int, best: list[dict[str, Any]], worst: list[dict[str, Any]], hints: Sequence[str]) -> None:
        """Write down what people may want to read: in samples.jsonl, a line {step, attempt, best, worst, hints}, and as texts
        for TensorBoard; and say what hints there are.
        """
        if not self._file or not self._events:
            return
        self._samples = self._samples or MetricsFile(self.group, "samples.jsonl")
        line = {"step": step, "attempt": self.group.attempt, "best": best, "worst": worst, "hints": hints}
        self._samples.append(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._samples.put()
        shown = {f"samples/{name}": _table(each) for name, each in (("best", best), ("worst", worst)) if each}
        shown |= {"hints": "\n".join(f"- {each}" for each in hints)} if hints else {}
        self._events.append(texts(step, time.time(), shown))
        for each in hints:
            print(f"step {step}: {each}", file=sys.stderr)

    def saving(self, checkpoint: CheckpointStatus | None, trouble: str, gauges: dict[str, float]) -> None:
        """Report what is new about checkpoints; `trouble` is shown until there is none."""
        self._trouble = trouble
        if self._file:
            if checkpoint:
                self._file.put()
                if self._events:
                    self._events.put()
            self.group.report(**{"checkpoint": checkpoint} if checkpoint else {}, metrics=gauges)
        self.alive()

    def alive(self) -> None:
        """Between two steps: repeat, now and then, what is known, so that nobody takes a long validation or save for a hang."""
        self._pulse.beat()
        if self._file and "step" in self._last and time.monotonic() >= self._reported + _SILENT_SECONDS:
            self._report()

    def close(self) -> None:
        """Leave nothing unwritten; raises OSError if storage fails."""
        if self._file:
            self._file.close()
        if self._events:
            self._events.close()
        if self._samples:
            self._samples.close()
        if self._trackers:
            self._trackers.close()

    def _record(self, step: int, **values: float | int) -> None:
        if not self._file or not self._events or not self._trackers:
            return
        times, self._times = self._times, {}
        self._write(step, **values, **({"seconds": times} if times else {}))
        spent = {f"seconds/{part}": seconds for part, seconds in times.items()}
        curves = {name: value for name, value in values.items() if name not in _PLACES}
        self._events.append(scalars(step, time.time(), curves | spent))
        self._trackers.log(step, curves | spent)
        self._last |= values | {"step": step}
        self._eta = round((self.stage.steps - step) * self._seconds_a_step, 1)
        self._report({f"step_{part}_seconds": seconds for part, seconds in times.items()})

    def _write(self, step: int, **values: object) -> None:
        if self._file:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            line = {"time": now, "attempt": self.group.attempt, "step": step, **values}
            self._file.append(json.dumps(line).encode() + b"\n")

    def _report(self, gauges: dict[str, float] | None = None) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        message = {"message": self._trouble} if self._trouble else {}
        progress = Progress(**self._last, **message, eta_seconds=self._eta, heartbeat_time=now)
        self.group.report(progress=progress, **({"metrics": gauges} if gauges else {}))
        self._reported = time.monotonic()


def _table(samples: Sequence[dict[str, Any]]) -> str:
    """As Markdown, in the order given."""
    head = list(samples[0])
    rows = [[str(each[name]).replace("|", "\\|").replace("\n", " ⏎ ") for name in head] for each in samples]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
