"""How good a reward model's scores are: whether it is right as often as it is sure, and whether it goes by length."""

from pathlib import Path
from typing import Any


def draw_judged(report: dict[str, Any], title: str, file: Path) -> None:
    """Write the picture of a reward stage's report: what it says of each prepare stage's held-out pairs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    calibrated, by_length = figure.subplots(1, 2)
    calibrated.plot([0.5, 1], [0.5, 1], "--", color="gray", linewidth=1, label="as sure as right")
    for name, judged in report.items():
        bins = judged["calibration"]
        label = f"{name}: {judged['accuracy']:.1%} of {judged['pairs']:.0f} pairs"
        calibrated.plot([it["sure"] for it in bins], [it["right"] for it in bins], "o-", markersize=4, label=label)
        parts = judged["by_length"]
        shares = [it["accuracy"] for it in parts]
        errors = [[it["accuracy"] - it["low"] for it in parts], [it["high"] - it["accuracy"] for it in parts]]
        places = [(it["from"] + it["to"]) / 2 for it in parts]
        bias = f", length bias {judged['length_bias']:+.2f}" if "length_bias" in judged else ""
        by_length.errorbar(places, shares, errors, fmt="o-", markersize=4, capsize=3, label=f"{name}{bias}")
    calibrated.set(title=f"{title}: calibration", xlabel="how sure of its choice", ylabel="how often right")
    by_length.set(
        title="accuracy by length", xlabel="tokens that the chosen response has more than the other", ylim=(0, 1.05)
    )
    for axes in (calibrated, by_length):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
