"""The operator's real code in made-up worlds: does it come right whatever goes wrong, and is it fast when it has much to do?

`--seeds N` lives through N worlds with faults and checks the invariants at every step; a seed that breaks one is printed, and
`--seed N --trace` replays it, event by event. Then 1,000 runs train at once and agents are killed: the seconds from a watch's
telling of the dead pod to the request for its replacement, in processor time of the reconcile code plus virtual time of all
waiting. No peer can be run like this; the bar is the design's.
"""

import argparse
import os
import statistics
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from trainyard_operator.simulation.crowd import measure as measure_crowd
from trainyard_operator.simulation.world import Outcome, simulate

from .figures import Figure, show

RUNS, FAILURES = 1_000, 300
QUICK_RUNS, QUICK_FAILURES = 200, 60
SECONDS_BAR = 1.0


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300 seeds, 200 runs at once")
    parser.add_argument("--json", action="store_true", help="figures as JSON instead of a table")
    parser.add_argument("--seeds", type=int, metavar="N", help="this many worlds (2,000; quick: 300)")
    parser.add_argument("--seed", type=int, metavar="N", help="this world alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: all that happens in it")
    options = parser.parse_args()
    if options.seed is not None:
        sys.exit(_replay(options.seed, traced=options.trace))
    outcomes = _live_through(options.seeds or (300 if options.quick else 2_000))
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
    for outcome in broken:
        print(f"seed {outcome.seed}: {outcome.broken[0]}", file=sys.stderr)
    sys.exit(show("simulate", [*_table(outcomes), *rows], figures, as_json=options.json))


def _live_through(seeds: int) -> list[Outcome]:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_without_trace, range(seeds), chunksize=20))


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
    rows += [["writes by the operator", str(sum(outcome.writes for outcome in outcomes)), ""]]
    return rows + [[f"fault: {kind}", str(count), ""] for kind, count in sorted(faults.items())]


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
