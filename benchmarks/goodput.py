"""Which part of a long run's time trains, at scales that nobody has at hand: Trainyard beside whole-group recreation.

    goodput = productive / total
    total   = productive + stalled by saves + recomputed + detecting + re-forming + restoring

productive being the time of the steps that remain, each counted once. 54 days are simulated at published rates of failure,
exponential in time; kinds of failure have the shares of Llama 3's table. Both ways live through the same trace of a seed.
What is measured, published and assumed: goodput_clocks.py; the arithmetic: goodput_replay.py. `--clocks FILE` takes what
`python -m benchmarks.recovery --json` or `… checkpoint --json` printed, in place of the figures there.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from .figures import Figure, Results, show
from .goodput_clocks import CLOCKS, recreation, trainyard
from .goodput_replay import Kind, Spent, failures, replay

HOUR = 3_600.0
SECONDS = 54 * 24 * HOUR
SCALES = {
    # GPUs, seconds between failures: Kokolis et al. 2024 (arXiv 2410.21680), interpolated, and Llama 3 (arXiv 2407.21783)
    "1024": (1_024, 7.9 * HOUR),
    "4096": (4_096, (7.9 * 1.8) ** 0.5 * HOUR),
    "16384": (16_384, 1.8 * HOUR),
    "16384_llama3": (16_384, SECONDS / 419),
}
SHARES: dict[Kind, int] = {
    "rank": 54 + 35 + 2,  # software, network switch or cable, dependency: the same machines can go on
    "hang": 7,  # NCCL watchdog
    "pod": 148 + 72 + 19 + 17 + 6 + 6 + 7 + 3 + 2,  # GPU and its memory, NIC, SSD, IO board: a new pod on another node
    "node": 32 + 3 + 2 + 2 + 2,  # host maintenance, power supply, chassis, CPU, memory: it no longer answers
}
"""Of the 419 unexpected interruptions of Llama 3."""
BAR_PERCENT = 97.0
WAYS = {"Trainyard": trainyard, "whole group": recreation}


def measure(clocks: Mapping[str, float], seeds: int) -> Results:
    """Rows of the table, medians over the seeds and goodput's range, and figures, of which goodput is the worst seed's."""
    parts = [field.name for field in fields(Spent)]
    rows = [["percent of 54 days", *(part.replace("_", "-") for part in parts), "failures"]]
    figures = []
    for scale, (gpus, apart) in SCALES.items():
        traces = [failures(seed, apart, SECONDS, SHARES) for seed in range(seeds)]
        spent = {way: [replay(trace, SECONDS, costs(gpus, clocks)) for trace in traces] for way, costs in WAYS.items()}
        count = f"{statistics.median(len(trace) for trace in traces):.0f}"
        for way, results in spent.items():
            rows.append([f"{scale}, {way}", *(_percent(results, part) for part in parts), count])
        ours, theirs = spent.values()
        figures += [
            Figure(f"percent_{scale}", 100 * min(each.goodput for each in ours), at_least=BAR_PERCENT),
            Figure(f"percent_{scale}_whole_group", 100 * min(each.goodput for each in theirs)),
            Figure(f"lost_to_whole_group_{scale}", statistics.median(map(_lost_ratio, ours, theirs))),
        ]
    return rows, figures


def _percent(results: list[Spent], part: str) -> str:
    values = [100 * getattr(each, part) / each.total for each in results]
    spread = f" ({min(values):.2f} to {max(values):.2f})" if part == "productive" else ""
    return f"{statistics.median(values):.2f}{spread}"


def _lost_ratio(ours: Spent, theirs: Spent) -> float:
    return (1 - ours.goodput) / (1 - theirs.goodput)


def _clocks(files: list[Path]) -> dict[str, float]:
    """CLOCKS, with the figures of these files in their place."""
    clocks = dict(CLOCKS)
    for path in files:
        given = json.loads(path.read_text())
        if not given.keys() & CLOCKS.keys():
            raise SystemExit(f"--clocks {path}: has none of {', '.join(CLOCKS)}")
        clocks.update({name: given[name] for name in given.keys() & CLOCKS.keys()})
    return clocks


def main() -> None:
    """Simulate, print, and exit with 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.goodput", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 seeds instead of 20")
    parser.add_argument("--json", action="store_true", help="figures as JSON instead of a table")
    parser.add_argument("--clocks", type=Path, nargs="+", default=[], metavar="FILE", help="measured figures, as JSON")
    options = parser.parse_args()
    rows, figures = measure(_clocks(options.clocks), seeds=3 if options.quick else 20)
    sys.exit(show("goodput", rows, figures, as_json=options.json))


if __name__ == "__main__":
    main()
