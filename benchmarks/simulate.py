"""The operator's real code in made-up worlds: does it come right whatever goes wrong, and is it fast when it has much to do?

`--seeds N` lives through N worlds with faults, as many at once as there are cores, and checks the invariants at every step; a
seed that breaks one is printed at once, and `--seed N --trace` replays it, event by event. Then 1,000 runs train at once and
agents are killed, 300 within a minute: the seconds from a watch's telling of the dead pod to the request for its replacement,
in processor time of the operator's real code, plus virtual time of all waiting. No peer can be run like this; the bar is the
design's.
"""

import argparse
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor

from trainyard_operator.simulation.crowd import measure as measure_crowd
from trainyard_operator.simulation.world import Outcome, simulate

from .figures import Figure, show

RUNS, FAILURES = 1_000, 300
QUICK_RUNS, QUICK_FAILURES = 50, 30
SEEDS, QUICK_SEEDS = 2_000, 40
SECONDS_BAR = 1.0
PROGRESS_SECONDS = 5.0
"""Between two lines of progress where nobody watches a terminal; there it is one line that is written over."""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds, {QUICK_RUNS} runs at once")
    parser.add_argument("--json", action="store_true", help="figures as JSON instead of a table")
    parser.add_argument("--seeds", type=int, metavar="N", help=f"this many worlds ({SEEDS:,}; quick: {QUICK_SEEDS})")
    parser.add_argument("--seed", type=int, metavar="N", help="this world alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: all that happens in it")
    options = parser.parse_args()
    if options.seed is not None:
        sys.exit(_replay(options.seed, traced=options.trace))
    outcomes = _live_through(options.seeds or (QUICK_SEEDS if options.quick else SEEDS))
    runs, failures = (QUICK_RUNS, QUICK_FAILURES) if options.quick else (RUNS, FAILURES)
    crowd = measure_crowd(runs, failures)
    p99 = statistics.quantiles(crowd.seconds, n=100)[98]
    rows = [
        ["", "", ""],
        [f"{runs} runs at once, {failures} agents killed", "median", f"{statistics.median(crowd.seconds):.3f} s"],
        ["failure seen → replacement requested", "99 %", f"{p99:.3f} s"],
        ["", "longest", f"{max(crowd.seconds):.3f} s"],
    ]
    broken = [outcome for outcome in outcomes if outcome.broken]
    figures = [
        Figure("seeds_that_break_an_invariant", len(broken), 0),
        Figure("failure_seen_to_replacement_requested_p99_seconds", p99, SECONDS_BAR),
    ]
    sys.exit(show("simulate", [*_table(outcomes), *rows], figures, as_json=options.json))


def _live_through(seeds: int) -> list[Outcome]:
    """All worlds, told of as they end: those that break an invariant at once."""
    outcomes: list[Outcome] = []
    began = told = time.monotonic()
    every = 0.2 if sys.stderr.isatty() else PROGRESS_SECONDS
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for outcome in pool.map(_without_trace, range(seeds), chunksize=5):
            outcomes.append(outcome)
            if outcome.broken:
                _say(f"seed {outcome.seed} breaks: {outcome.broken[0]}; replay: --seed {outcome.seed} --trace\n")
            if (now := time.monotonic()) - told >= every or len(outcomes) == seeds:
                told, left = now, (now - began) / len(outcomes) * (seeds - len(outcomes))
                broken = sum(bool(each.broken) for each in outcomes)
                _say(f"{len(outcomes):,} of {seeds:,} worlds, {broken} broken, {left:.0f} s left")
    if sys.stderr.isatty():
        _say("\n")
    return outcomes


def _say(text: str) -> None:
    """On a terminal over the line before, elsewhere below it."""
    line = f"\r\033[K{text}" if sys.stderr.isatty() else f"{text.rstrip()}\n" if text.strip() else ""
    print(line, end="", file=sys.stderr, flush=True)


def _without_trace(seed: int) -> Outcome:
    return simulate(seed, traced=False)


def _table(outcomes: list[Outcome]) -> list[list[str]]:
    """What the worlds were made of, and what became of it."""
    ends: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for outcome in outcomes:
        ends.update(outcome.phases)
        faults.update(outcome.faults)
    rows = [
        ["worlds", str(len(outcomes)), f"{sum(outcome.seconds for outcome in outcomes) / 3600:.0f} h of virtual time"]
    ]
    rows += [[f"runs {end}", str(count), ""] for end, count in sorted(ends.items())]
    rows += [["recoveries", str(sum(outcome.recoveries for outcome in outcomes)), ""]]
    for kind, seconds in sorted(_successions(outcomes).items()):
        longest = f"median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s"
        rows += [[f"another leader after: {kind}", str(len(seconds)), longest]]
    rows += [["writes by the operator", str(sum(outcome.writes for outcome in outcomes)), ""]]
    return rows + [[f"fault: {kind}", str(count), ""] for kind, count in sorted(faults.items())]


def _successions(outcomes: list[Outcome]) -> dict[str, list[float]]:
    """Seconds by what took the leader away, with two replicas, whatever else went wrong."""
    found: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        for kind, seconds in outcome.successions if outcome.replicas > 1 else ():
            found[kind].append(seconds)
    return found


def _replay(seed: int, *, traced: bool) -> int:
    outcome = simulate(seed)
    for line in outcome.trace if traced else ():
        print(line)
    for what in outcome.broken:
        print(f"seed {seed}: {what}")
    print(
        f"seed {seed}: {len(outcome.broken)} invariants broken, {outcome.recoveries} recoveries, runs: {outcome.phases}"
    )
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    main()
