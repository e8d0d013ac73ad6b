"""How long training stands still after a fault: from the fault to the first new step, and the three clocks of the status.

On the cluster of `make kind-up`: four workers over two nodes, a small model, so nearly all of it is Trainyard's and
Kubernetes' time. A rank, an agent, a pod and a node are killed in turn, again and again; when the first new step
was done is in metrics.jsonl, by the same clock that the faults are timed by. The peer is whole-group recreation: the same
run, the same fault, but all pods are deleted at once, as operators do that know no smaller repair.

`--faults NAME…` brings about these alone, in figures and bars that are otherwise the same: all take half an hour.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from conditions import eventually
from kind.cluster import SYSTEM, Namespace, Run, kubectl
from kind.faults import kill_agent, kill_node, kill_rank, leading_node, start_node
from kind.runs import small_run

from .figures import Figure, Results, show, spread
from .kind_latency import first_step

WORKERS = 4
PATIENCE_SECONDS = 240
BARS = {"rank_killed": 3.0, "agent_killed": 12.0, "pod_deleted": 15.0, "node_lost": 40.0, "all_pods_deleted": None}


def measure(faults: Sequence[str], times: int) -> Results:
    """Rows of the table and figures, in seconds."""
    namespace = Namespace("benchmark-recovery")
    namespace.create()
    try:
        samples = {name: _samples(namespace, name, times) for name in faults}
    finally:
        namespace.delete()
    rows = [["seconds, median (range)", "fault to first new step", "to detect", "to re-form", "steps done again"]]
    figures = []
    for name, measured in samples.items():
        columns = {what: [each[what] for each in measured] for what in measured[0]}
        rows.append([name.replace("_", " "), *(spread(columns[what]) for what in columns)])
        figures.append(Figure(f"{name}_seconds", statistics.median(columns["total"]), BARS[name]))
        for what in ("detect", "reform"):
            figures.append(Figure(f"{name}_{what}_seconds", statistics.median(columns[what])))
    return rows, figures


def _samples(namespace: Namespace, name: str, times: int) -> list[dict[str, float]]:
    """All of one run; of nodes each of a run of its own, for a run keeps off a node that it has lost for five minutes."""
    runs, faults = (times, 1) if name == "node_lost" else (1, times)
    measured = []
    for number in range(runs):
        run = namespace.apply(_endless(f"{name.replace('_', '-')}-{number}"))
        for _ in range(faults):
            measured.append(_recover(run, FAULTS[name]))
            print(f"{name.replace('_', ' ')}: {measured[-1]['total']:.2f} s", file=sys.stderr, flush=True)
        kubectl("-n", namespace.name, "delete", "trainingrun", run.name, "--wait=false")
        eventually(lambda: not namespace.pods(), 120, "the run's pods are gone")
    return measured


def _endless(name: str) -> dict[str, Any]:
    run = small_run(name, workers=WORKERS, steps=1_000_000)
    run["spec"]["recovery"] = {"maxFailures": 100, "windowSeconds": 600, "excludeNodeSeconds": 0}
    return run


def _recover(run: Run, fault: Callable[[Run], Callable[[], None]]) -> dict[str, float]:
    """Bring the fault about once the run trains, and measure until it trains again."""
    before = _training(run)
    _until_saved_anew(run, before)
    began = time.time()
    undo = fault(run)
    try:
        total = first_step(run, before["attempt"] + 1) - began
        status = run.until(
            lambda s: (s.get("recoveries") or [{}])[-1].get("recomputedSteps") is not None,
            PATIENCE_SECONDS,
            "has all clocks",
        )
    finally:
        undo()
    clocks = status["recoveries"][-1]
    return {
        "total": total,
        "detect": clocks.get("detectSeconds") or 0.0,
        "reform": clocks.get("reformSeconds") or 0.0,
        "again": float(clocks["recomputedSteps"]),
    }


def _training(run: Run) -> dict[str, Any]:
    """The run's status once its newest attempt has done a step."""
    status = run.until(
        lambda s: (
            s.get("stage") == "base" and s["phase"] == "Running" and (s.get("progress") or {}).get("step", 0) >= 20
        ),
        PATIENCE_SECONDS,
        "trains",
    )
    first_step(run, status["attempt"])
    return status


def _until_saved_anew(run: Run, before: dict[str, Any]) -> None:
    """Attempts that come no further than the one before wait on purpose; this is about those that do."""
    known = (before.get("checkpoint") or {}).get("step", 0)
    run.until(lambda s: (s.get("checkpoint") or {}).get("step", 0) > known, PATIENCE_SECONDS, "has a newer checkpoint")


def _nothing() -> None:
    pass


def _rank(run: Run) -> Callable[[], None]:
    kill_rank(run, 1, "base")
    return _nothing


def _agent(run: Run) -> Callable[[], None]:
    kill_agent(run, 1, "base")
    return _nothing


def _pod(run: Run) -> Callable[[], None]:
    run.delete_pod(1, "base", force=True)
    return _nothing


def _all(run: Run) -> Callable[[], None]:
    names = run.group("base").values()
    kubectl("-n", run.namespace.name, "delete", "pod", *names, "--force", "--grace-period=0", "--wait=false")
    return _nothing


def _node(run: Run) -> Callable[[], None]:
    """The node on which the leading operator isn't, and its return."""
    spared = leading_node()
    on = {run.pod(worker, "base")["spec"]["nodeName"] for worker in range(WORKERS)}
    doomed = next(node for node in on if node != spared)
    kill_node(doomed)

    def bring_back() -> None:
        start_node(doomed)
        kubectl("wait", "--for=condition=Ready", f"node/{doomed}", "--timeout=120s")
        kubectl("-n", SYSTEM, "rollout", "status", "deployment/trainyard", "--timeout=120s")

    return bring_back


FAULTS = {
    "rank_killed": _rank,
    "agent_killed": _agent,
    "pod_deleted": _pod,
    "all_pods_deleted": _all,
    "node_lost": _node,
}


def main() -> None:
    """Measure, print, and exit with 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="each fault once instead of ten times")
    parser.add_argument("--json", action="store_true", help="figures as JSON instead of a table")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME", help="these alone")
    options = parser.parse_args()
    rows, figures = measure(options.faults, 1 if options.quick else 10)
    sys.exit(show("recovery", rows, figures, as_json=options.json))


if __name__ == "__main__":
    main()
