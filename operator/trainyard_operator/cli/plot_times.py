"""Where the time of training goes: each step's parts over the steps, and the operators of a profile."""

import json
from pathlib import Path
from typing import Any

PARTS = ("data", "generate", "score", "push", "forward", "backward", "optimizer", "checkpoint", "wait")
_OPERATORS = 20


def read_times(metrics: str) -> dict[int, dict[str, float]]:
    """Step → part → seconds, by metrics.jsonl; steps that were done again as the last attempt had them."""
    rows = (json.loads(line) for line in metrics.splitlines(keepends=True) if line.endswith("\n"))
    return {row["step"]: row["seconds"] for row in rows if "seconds" in row}


def draw_times(times: dict[int, dict[str, float]], title: str, file: Path) -> None:
    """Write the picture of rank 0's steps."""
    figure, axes = _figure()
    steps = sorted(times)
    parts = [part for part in PARTS if any(times[step].get(part) for step in steps)]
    axes.stackplot(steps, [[times[step].get(part, 0.0) for step in steps] for part in parts], labels=parts)
    axes.set(title=f"{title}: what a step of rank 0 is spent on", xlabel="step", ylabel="seconds")
    axes.legend(loc="upper right")
    _save(figure, file)


def draw_operators(profile: dict[str, Any], title: str, file: Path) -> None:
    """Write the picture of a profile's operators, those that take longest."""
    figure, axes = _figure()
    on_gpu = any(each["gpu_seconds"] for each in profile["operators"])
    field = "gpu_seconds" if on_gpu else "cpu_seconds"
    most = sorted(profile["operators"], key=lambda each: each[field])[-_OPERATORS:]
    axes.barh([f"{each['name'][:50]} ×{each['calls']}" for each in most], [each[field] for each in most])
    first, last = profile["steps"]
    axes.set(title=f"{title}: operators of steps {first}–{last}", xlabel=f"seconds on the {'GPU' if on_gpu else 'CPU'}")
    _save(figure, file)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
