"""How a run is watched: a live table on a terminal, one plain line for each change everywhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from trainyard_api.status import Status

from . import words

PHASE_COLOURS = {"Running": "cyan", "Succeeded": "green", "Failed": "red", "Recovering": "yellow"}


class View(Protocol):
    """Somewhere that a run is shown."""

    def say(self, text: str) -> None:
        """Show a line that stays."""
        ...

    def show(self, written: Status, live: Status) -> None:
        """Show where the run is: the status as last written, every few seconds, and as it is this moment."""
        ...


@contextmanager
def viewing(name: str, *, plain: bool) -> Iterator[View]:
    """The view that fits standard output."""
    console = Console(highlight=False)
    if plain or not console.is_terminal:
        yield PlainView()
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        yield LiveView(name, live)


class PlainView:
    """A line for each change, with the time."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def say(self, text: str) -> None:
        """Print a line."""
        print(f"{datetime.now().astimezone():%H:%M:%S} {text}", flush=True)

    def show(self, written: Status, live: Status) -> None:
        """Print what has changed since the last time."""
        before, self._lines = self._lines, lines_of(written)
        for line in self._lines:
            if line not in before:
                self.say(line)


def lines_of(status: Status) -> list[str]:
    """All that is to be said of a status; a change of it is the lines that were not there before."""
    lines = [words.headline(status)]
    if text := words.progress(status.progress):
        lines.append(f"{status.stage}: {text}")
    if status.checkpoint:
        lines.append(f"checkpoint of step {status.checkpoint.step}: {status.checkpoint.uri}")
    lines += [words.quarantined(each) for each in status.quarantined]
    lines += [f"recovery: {words.recovery(recovery)}" for recovery in status.recoveries]
    lines += [f"{stage.name}: done: {stage.artifact}" for stage in status.stages if stage.phase == "Succeeded"]
    return lines


class LiveView:
    """The table, redrawn in place."""

    def __init__(self, name: str, live: Live) -> None:
        self._name = name
        self._live = live

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._live.console.print(text, markup=False)

    def show(self, written: Status, live: Status) -> None:
        """Redraw the table."""
        self._live.update(table_of(self._name, live), refresh=True)


def table_of(name: str, status: Status) -> Group:
    """A row a stage, then what happens now, then the recoveries."""
    table = Table(title=f"{name} · attempt {status.attempt} · restarts {status.restarts.total}", title_justify="left")
    for column in ("stage", "phase", "step", "loss", "held-out", "tokens/s", "left", "checkpoint"):
        table.add_column(column, justify="left" if column in ("stage", "phase") else "right")
    for stage in status.stages:
        now = status.progress if stage.name == status.stage else None
        phase: str = status.phase if stage.name == status.stage and stage.phase == "Running" else stage.phase
        checkpoint = status.checkpoint if stage.name == status.stage else None
        table.add_row(
            stage.name,
            Text(phase, PHASE_COLOURS.get(phase, "")),
            f"{now.step}/{now.steps}" if now and now.steps else "",
            _figure(now.loss if now else _metric(stage.metrics, "loss"), ".3f"),
            _figure(now.held_out_loss if now else _metric(stage.metrics, "held_out_loss"), ".3f"),
            _figure(now.tokens_per_second if now else None, ",.0f"),
            words.duration(now.eta_seconds) if now and now.eta_seconds else "",
            f"{checkpoint.step}" if checkpoint else "",
        )
    lines = [Text(f"{words.headline(status)}")]
    if status.progress and status.progress.message and status.progress.message != status.message:
        lines.append(Text(status.progress.message))
    lines += [Text(words.quarantined(each), "yellow") for each in status.quarantined]
    lines += [Text(f"recovery: {words.recovery(recovery)}", "yellow") for recovery in status.recoveries]
    return Group(table, *lines)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _metric(metrics: dict[str, float] | None, name: str) -> float | None:
    return (metrics or {}).get(name)
