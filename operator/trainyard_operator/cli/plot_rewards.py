"""How learning from rewards goes: what responses are given, how far the policy has gone, how long and how varied they are."""

import json
from pathlib import Path
from typing import Any

PANELS = (
    ("reward", ("reward", "held_out_reward")),
    ("nats a token", ("kl", "entropy", "mismatch")),
    ("tokens of a response", ("response_tokens",)),
    ("share", ("truncated", "informative", "repetition", "clipped", "explained_variance")),
)
"""Each one's axis, and the figures that are drawn in it."""


def read_rewards(metrics: str) -> dict[str, dict[int, float]]:
    """Figure → step → value, by metrics.jsonl; steps that were done again as the last attempt had them. Nothing for a stage
    that draws no responses.
    """
    found: dict[str, dict[int, float]] = {}
    names = ("reward_deviation", "sequences", *(name for _, panel in PANELS for name in panel))
    for line in metrics.splitlines(keepends=True):
        row = json.loads(line) if line.endswith("\n") else {}
        for name in names:
            if name in row:
                found.setdefault(name, {})[row["step"]] = row[name]
    return found if "response_tokens" in found else {}


def draw_rewards(figures: dict[str, dict[int, float]], title: str, file: Path) -> None:
    """Write the picture. The band about the reward is the 95 % interval of a step's mean, as if it had a response a prompt."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    for axes, (unit, names) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for name in (name for name in names if name in figures):
            steps, values = zip(*sorted(figures[name].items()), strict=True)
            held_out = name.startswith("held_out")
            axes.plot(steps, values, "o-" if held_out else "-", markersize=4, linewidth=1, label=name.replace("_", " "))
            if name == "reward":
                _band(axes, steps, values, figures)
        axes.set(xlabel="step", ylabel=unit, **({"ylim": (-0.5, 1.05)} if unit == "share" else {}))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{title}: learning from rewards")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def _band(axes: Any, steps: tuple[int, ...], means: tuple[float, ...], figures: dict[str, dict[int, float]]) -> None:
    errors = [1.96 * figures["reward_deviation"][step] / figures["sequences"][step] ** 0.5 for step in steps]
    low = [mean - error for mean, error in zip(means, errors, strict=True)]
    high = [mean + error for mean, error in zip(means, errors, strict=True)]
    axes.fill_between(steps, low, high, alpha=0.2)
