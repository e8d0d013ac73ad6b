"""Pictures of what benchmarks have seen models learn: a curve for each seed, and what was measured with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainyard_trainer.evaluation.intervals import wilson


@dataclass(frozen=True)
class Curve:
    """One seed's."""

    label: str
    learning: dict[int, float]
    """A figure of each step, of which means over ten steps are drawn."""
    measured: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Shares at some steps, and of how many they are."""


@dataclass(frozen=True)
class Panel:
    """Curves with one axis."""

    unit: str
    curves: Sequence[Curve]
    bar: float | None = None
    """A line that is to be reached, or not to be crossed."""


def draw_curves(panels: Sequence[Panel], title: str, file: Path) -> None:
    """Write the picture: lines are what is seen while learning, points are measured, with Wilson's intervals of 95 %."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 3.5), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        last = max(step for curve in panel.curves for step in (*curve.learning, *curve.measured))
        for number, curve in enumerate(panel.curves):
            _draw(axes, curve, f"C{number}", aside=0.01 * number * last)
        if panel.bar is not None:
            axes.axhline(panel.bar, color="black", linewidth=0.8, linestyle="--")
        axes.set(xlabel="step", ylabel=panel.unit)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _draw(axes: Any, curve: Curve, color: str, aside: float) -> None:
    """Points a little aside, so that none hides another."""
    steps = sorted(curve.learning)
    windows = [steps[max(0, at - 9) : at + 1] for at in range(len(steps))]
    means = [sum(curve.learning[step] for step in window) / len(window) for window in windows]
    axes.plot(steps, means, color=color, linewidth=1, label=curve.label)
    for step, (share, number) in curve.measured.items():
        low, high = wilson(share, number)
        axes.errorbar(
            step + aside, share, [[share - low], [high - share]], fmt="o", color=color, markersize=4, capsize=3
        )
