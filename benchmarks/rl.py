"""How fast GRPO is, beside TRL's trainer: seconds a step, drawing and rewards included, and what ours is spent on.

One Llama-shaped model of 30 M parameters in fp32, read from one folder, on the same prompts, with as many responses of the same
length, in one run, in turns, each with all cores. TRL draws with transformers' own `generate`.
"""

import statistics
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from training import metric_lines

from .contending import Contender, take_turns
from .figures import Figure, Results, main, spread
from .preferences import write_model
from .preferences_data import write_data
from .rl_data import a_job_to_train

BAR = 1.5
PARTS = ("generate", "score", "forward", "backward", "optimizer")


def measure(quick: bool) -> Results:
    """Rows of the table and figures."""
    try:
        trl = f"TRL {version('trl')}"
    except PackageNotFoundError:
        raise SystemExit("benchmarks.rl: the peer is missing; pip install trl") from None
    rows = [["", "s a step, median (range)", "of which drawing", "peak MB"]]
    with tempfile.TemporaryDirectory(prefix="trainyard-benchmark-") as scratch:
        samples, parts = _run(Path(scratch), rounds=2 if quick else 5, steps=1 if quick else 3)
    for name, of in samples.items():
        drawing = f"{statistics.median(each['waited'] for each in of):.2f} s" if name == "trainyard" else ""
        peak = f"{max(each['peak'] for each in of) / 1e6:.0f}"
        label = "Trainyard" if name == "trainyard" else trl
        rows.append([label, spread([each["seconds"] for each in of]), drawing, peak])
    rows += [[f"  {part}", f"{100 * share:.0f} %", "", ""] for part, share in parts.items()]
    turns = zip(samples["trainyard"], samples["trl"], strict=True)
    return rows, [Figure("step_to_trl", statistics.median(t["seconds"] / o["seconds"] for o, t in turns), at_least=BAR)]


def _run(scratch: Path, rounds: int, steps: int) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float]]:
    """Samples of each contender, and the share of each part of our steps."""
    write_data(scratch)
    write_model(scratch / "model")
    job = a_job_to_train(scratch)
    contenders = {
        name: Contender(["benchmarks.rl_ranks", name, str(scratch)], job, 1, scratch / f"{name}.log")
        for name in ("trainyard", "trl")
    }
    samples = take_turns(contenders, rounds, steps)
    lines = [line for line in metric_lines(scratch / "grpo") if "seconds" in line][1:]
    spent = {part: sum(line["seconds"].get(part, 0.0) for line in lines) for part in PARTS}
    return samples, {part: seconds / sum(line["step_seconds"] for line in lines) for part, seconds in spent.items()}


if __name__ == "__main__":
    main("rl", __doc__.splitlines()[0], measure)
