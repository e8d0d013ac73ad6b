"""`trainyard plot RUN`: the loss curve as a PNG, with held-out loss and recoveries, from the run's metrics.jsonl; beside it
RUN-times.png, what steps are spent on, RUN-profile.png where there is a profile, RUN-judged.png of a reward model, and
RUN-rewards.png of what learns from rewards.

Steps that were computed again after a recovery count once, as the latest attempt had them.
"""

import argparse
import json
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainyard_api.run import TrainingRun
from trainyard_api.storage import Storage

from ..cluster.home import Home
from .get import selected
from .plot_judged import draw_judged
from .plot_rewards import draw_rewards, read_rewards
from .plot_times import draw_operators, draw_times, read_times
from .taking_up import artifacts


@dataclass
class Curve:
    """What a stage's metrics.jsonl says, by step."""

    loss: dict[int, float] = field(default_factory=dict)
    """Mean loss per token of the step's batch, in nats."""
    held_out: dict[int, float] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    """Tokens trained on after the step."""
    resumed: list[int] = field(default_factory=list)
    """The first step of each attempt but the first."""


def plot_command(options: argparse.Namespace) -> int:
    """Draw the pictures of each stage that trains and has begun."""
    home = Home(options.home)
    runs = selected(home, options.namespace, options.run)
    if len(runs) != 1:
        print(f"run {options.run} is not in {home.root}, once; use --home and --namespace", file=sys.stderr)
        return 1
    run = TrainingRun.read_stored({**runs[0], "status": None})
    output = options.output or Path(f"{options.run}.png")
    try:
        drawn = plot(home, run, output)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; plot reads metrics.jsonl from there", file=sys.stderr)
        return 1
    if not drawn:
        print(f"run {options.run} has no steps yet; `trainyard get {options.run}` says where it is", file=sys.stderr)
        return 1
    print(*drawn, sep="\n")
    return 0


def plot(home: Home, run: TrainingRun, output: Path) -> list[Path]:
    """Draw the curve of each stage that trains and has begun; several stages get their names into the file's."""
    stages = [stage.name for stage in run.spec.stages if stage.training]
    drawn = []
    for name in stages:
        try:
            metrics = artifacts(home, run).read(f"{name}/metrics.jsonl").decode()
        except FileNotFoundError:
            continue
        if (curve := read_curve(metrics)).loss:
            file = output if len(stages) == 1 else _beside(output, name)
            title = f"{run.metadata.name}: {name}"
            draw(curve, title, file)
            drawn += [file, *_draw_times(artifacts(home, run), name, metrics, title, file)]
            if figures := read_rewards(metrics):
                drawn.append(_beside(file, "rewards"))
                draw_rewards(figures, title, drawn[-1])
            with suppress(FileNotFoundError):
                report = json.loads(artifacts(home, run).read(f"{name}/report.json"))
                drawn.append(_beside(file, "judged"))
                draw_judged(report, title, drawn[-1])
    return drawn


def _draw_times(storage: Storage, stage: str, metrics: str, title: str, file: Path) -> list[Path]:
    """The pictures of where a stage's time goes."""
    drawn = []
    if times := read_times(metrics):
        drawn.append(_beside(file, "times"))
        draw_times(times, title, drawn[-1])
    with suppress(FileNotFoundError):
        profile = json.loads(storage.read(f"{stage}/profile/operators.json"))
        drawn.append(_beside(file, "profile"))
        draw_operators(profile, title, drawn[-1])
    return drawn


def _beside(file: Path, what: str) -> Path:
    return file.with_name(f"{file.stem}-{what}{file.suffix}")


def read_curve(metrics: str) -> Curve:
    """Read metrics.jsonl; a last line that is still being written is left out."""
    curve = Curve()
    attempt = None
    for line in metrics.splitlines(keepends=True):
        if not line.endswith("\n"):
            continue
        row = json.loads(line)
        if attempt not in (None, row["attempt"]):
            curve.resumed.append(row["step"])
        attempt = row["attempt"]
        if "loss" in row:
            curve.loss[row["step"]] = row["loss"]
            curve.tokens[row["step"]] = row["tokens"]
        if "held_out_loss" in row:
            curve.held_out[row["step"]] = row["held_out_loss"]
    return curve


def draw(curve: Curve, title: str, file: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    steps = sorted(curve.loss)
    axes.plot(steps, [curve.loss[step] for step in steps], linewidth=1, label="training loss")
    if held := sorted(curve.held_out):
        axes.plot(held, [curve.held_out[step] for step in held], "o-", markersize=4, label="held-out loss")
    for number, step in enumerate(curve.resumed):
        label = "resumed from a checkpoint" if number == 0 else None
        axes.axvline(step, color="tab:red", linestyle="--", linewidth=1, label=label)
    tokens_a_step = curve.tokens[steps[-1]] / steps[-1]

    def to_tokens(step: Any) -> Any:
        return step * tokens_a_step

    def to_steps(tokens: Any) -> Any:
        return tokens / tokens_a_step

    axes.secondary_xaxis("top", functions=(to_tokens, to_steps)).set_xlabel("tokens")
    axes.set(title=title, xlabel="step", ylabel="loss, nats a token")
    axes.grid(alpha=0.3)
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
