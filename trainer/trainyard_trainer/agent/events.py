"""The agent's own log: events with fields, a line each, between the lines of its ranks. Ranks print no progress; this does."""

import json
from collections.abc import Callable, Mapping

from trainyard_api.model import Model
from trainyard_api.status import Progress

PROGRESS_SECONDS = 5.0
"""Between two lines of progress: a day of training is 17,000 lines."""
SHOWN = (
    "step",
    "steps",
    "loss",
    "held_out_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "eta_seconds",
    "message",
)
"""Fields of progress in the log, where a stage has them."""


def log(event: str, **fields: str | int | float) -> None:
    """Write one event to standard output."""
    text = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
    print(f"[agent] {event} {text}".rstrip(), flush=True)


def log_reports(reports: Mapping[str, object]) -> None:
    """Write an event for each thing that a rank has reported: where it resumes, a checkpoint, an artifact."""
    for name, value in reports.items():
        fields = value.wire() if isinstance(value, Model) else {"step" if isinstance(value, int) else "source": value}
        log(name, **{key: each for key, each in fields.items() if isinstance(each, str | int | float)})


class ProgressLog:
    """Writes progress, often enough to be watched and seldom enough to be read. `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.begin()

    def begin(self) -> None:
        """Write the next progress, for it is of another attempt."""
        self._next = float("-inf")

    def hear(self, progress: Progress) -> None:
        """Write the progress, unless some has been written a moment ago; the last step always."""
        if self._now() < self._next and progress.step != progress.steps:
            return
        self._next = self._now() + PROGRESS_SECONDS
        values = {name: getattr(progress, name) for name in SHOWN}
        log("progress", **{name: value for name, value in values.items() if value is not None})


def _shown(value: str | int | float) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:.5g}" if isinstance(value, float) else f"{value}"
