"""What training says of itself, a step at a time: metrics.jsonl for plots, `Progress` for the status.

metrics.jsonl holds {time, attempt, step, loss, learning_rate, grad_norm, tokens, tokens_per_second, step_seconds} a step
and {time, attempt, step, held_out_loss} a validation. Steps that are done again after a recovery are there again, under
their attempt. Speeds are of one step: a mean over the attempt would hide a stall.
"""

import json
import time
from datetime import UTC, datetime

from trainyard_api.stages import PretrainStage
from trainyard_api.status import CheckpointStatus, Progress

from ..group import Group


class TrainingProgress:
    """Records steps; only rank 0's goes anywhere."""

    def __init__(self, stage: PretrainStage, group: Group) -> None:
        self.stage, self.group = stage, group
        self._last: dict[str, float | int] = {"steps": stage.steps}
        self._path = group.output / "metrics.jsonl" if group.rank == 0 else None
        self._clock = time.monotonic()
        self._seconds_a_step = 0.0

    def resumed(self, step: int) -> None:
        """Report the step that this attempt starts from."""
        if self._path:
            self.group.report(resumed_step=step)

    def start_clock(self) -> None:
        """A step begins here; what came before (saving, validating) isn't its time."""
        self._clock = time.monotonic()

    def step(self, step: int, *, loss: float, learning_rate: float, grad_norm: float) -> None:
        """Record a step that is done."""
        seconds = time.monotonic() - self._clock
        self._seconds_a_step = seconds if not self._seconds_a_step else 0.9 * self._seconds_a_step + 0.1 * seconds
        step_tokens = self.stage.global_batch * self.stage.sequence_length
        self._record(
            step,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens=step * step_tokens,
            tokens_per_second=round(step_tokens / seconds, 1),
            step_seconds=round(seconds, 4),
        )

    def held_out(self, step: int, loss: float) -> None:
        """Record a validation."""
        self._record(step, held_out_loss=loss)

    def saved(self, checkpoint: CheckpointStatus) -> None:
        """Report a checkpoint that is committed."""
        if self._path:
            self.group.report(checkpoint=checkpoint)

    def _record(self, step: int, **values: float | int) -> None:
        if not self._path:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "attempt": self.group.attempt, "step": step, **values}
        with open(self._path, "a") as file:
            file.write(json.dumps(line) + "\n")
        self._last |= values | {"step": step}
        eta = round((self.stage.steps - step) * self._seconds_a_step, 1)
        self.group.report(progress=Progress(**self._last, eta_seconds=eta, heartbeat_time=now))
