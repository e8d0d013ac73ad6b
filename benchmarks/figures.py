"""How every benchmark prints: a table of samples, then `NAME.figure: value (bar: …)`, and an exit code that says whether
all bars are met.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One result. `bar` is an upper bound where there is one, `at_least` a lower one."""

    name: str
    value: float
    bar: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        """Whether the bars, if any, are met."""
        return (self.bar is None or self.value <= self.bar) and (self.at_least is None or self.value >= self.at_least)

    @property
    def bars(self) -> str:
        """In words."""
        bounds = (("≤", self.bar), ("≥", self.at_least))
        return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None) or "none"


def spread(samples: Sequence[float]) -> str:
    """Median, and minimum to maximum, for a table cell."""
    return f"{statistics.median(samples):.2f} ({min(samples):.2f} to {max(samples):.2f})"


Results = tuple[list[list[str]], list[Figure]]
"""The table's rows, header first, and the figures."""


def main(
    name: str,
    about: str,
    measure: Callable[..., Results],
    kills: Callable[[int], Results] | None = None,
    gpu: Callable[[bool], Results] | None = None,
    plots: bool = False,
) -> None:
    """Run a benchmark: `measure(quick)`, or, if it has such a form, `kills(N)` with --kills N, `gpu(quick)` with --gpu, and,
    if it `plots`, `measure(quick, file)` with --plot FILE.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--quick", action="store_true", help="fewest repetitions")
    parser.add_argument("--json", action="store_true", help="figures as JSON instead of a table")
    if kills:
        parser.add_argument("--kills", type=int, metavar="N", help="kill N random processes of a run instead")
    if gpu:
        parser.add_argument("--gpu", action="store_true", help="its form for one GPU instead")
    if plots:
        parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of it as well, SVG or PNG")
    options = parser.parse_args()
    if plots:
        measure = partial(measure, file=options.plot)
    measure = gpu if gpu and options.gpu else measure
    rows, figures = kills(options.kills) if kills and options.kills else measure(options.quick)
    sys.exit(show(name, rows, figures, as_json=options.json))


def show(name: str, rows: list[list[str]], figures: list[Figure], *, as_json: bool) -> int:
    """Print the results; the exit code."""
    if as_json:
        print(json.dumps({f"{name}.{figure.name}": figure.value for figure in figures}, indent=1))
    else:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for figure in figures:
            print(f"{name}.{figure.name}: {figure.value:.2f} (bar: {figure.bars})")
    return 0 if all(figure.met for figure in figures) else 1
