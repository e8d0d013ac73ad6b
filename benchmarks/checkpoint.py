"""What a checkpoint costs: how long training stands still, until when it is on disk, how long restoring takes, how many bytes.

A Llama of 58 M parameters, two ranks, fp32 Adam, ZeRO-2: the same state, saved in turn by Trainyard, by DeepSpeed's
`save_checkpoint` and by torch DCP's `async_save`, in one process group, while the same training goes on. Trainyard and DCP
sync their files to disk and DeepSpeed doesn't; Trainyard alone hashes what it writes and verifies what it reads.

Restoring is from disk, the files' pages dropped before (posix_fadvise), and, for Trainyard, from the memory that an agent
keeps for its ranks as well.

A run that saves every 30 s is held against one that never does, in windows that take turns. With --quick a window holds
one save, and what that costs is divided by 30 s.

With --kills N it is another benchmark: N random processes of a run are killed, and what is lost is counted.
"""

import json
import os
import random
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from random_kills import random_kills
from training import Ranks, a_job

from .figures import Figure, Results, main, spread

METHODS = {
    "trainyard": "Trainyard",
    "deepspeed": f"DeepSpeed {version('deepspeed')} save_checkpoint",
    "dcp": f"torch {version('torch')} DCP async_save",
}
LONGEST_SECONDS = 800


def measure(quick: bool) -> Results:
    """Rows of the table and figures; times in seconds, the slowest rank's."""
    with tempfile.TemporaryDirectory(prefix="trainyard-benchmark-") as scratch:
        results = _run(Path(scratch), quick)
    rows = [["seconds, median (range)", "stall", "until durable", "restore", "MB"]]
    for method, name in METHODS.items():
        samples = results[method]
        times = [spread(samples[what]) for what in ("stall", "durable", "restore")]
        rows.append([name, *times, f"{samples['bytes'] / 1e6:.0f}"])
    size = f"{results['trainyard']['bytes'] / 1e6:.0f}"
    rows.append(["Trainyard, from the agent's memory", "", "", spread(results["memory"]), size])
    median = {method: statistics.median(results[method]["stall"]) for method in METHODS}
    figures = [
        Figure("stall_milliseconds", 1000 * median["trainyard"]),
        Figure("stall_to_deepspeed", median["trainyard"] / median["deepspeed"], bar=0.05),
        Figure("stall_to_dcp", median["trainyard"] / median["dcp"], bar=1),
        Figure("durable_seconds", statistics.median(results["trainyard"]["durable"])),
        Figure("restore_seconds", statistics.median(results["trainyard"]["restore"])),
        Figure("restore_from_memory_seconds", statistics.median(results["memory"])),
        Figure(
            "restore_from_memory_to_disk",
            statistics.median(results["memory"]) / statistics.median(results["trainyard"]["restore"]),
            bar=0.33,
        ),
        Figure("saving_every_30_s_to_never", statistics.median(results["ratios"]), bar=1.05),
    ]
    rows.append([f"{results['step']:.2f} s a step; saving to never, by window", spread(results["ratios"]), "", "", ""])
    return rows, figures


def _run(scratch: Path, quick: bool) -> dict[str, Any]:
    job = a_job("pretrain", scratch / "run", {}, {}).model_copy(update={"memory_budget": 8 * 2**30})
    ranks = Ranks(job, 2, script=("-m", "benchmarks.checkpoint_ranks", "quick" if quick else "full"))
    codes = ranks.wait(LONGEST_SECONDS)
    if codes != [0, 0]:
        raise SystemExit(f"exit codes {codes}\n{ranks.said()}")
    results: dict[str, Any] = json.loads((scratch / "run/results.json").read_text())
    return results


def kill(kills: int) -> Results:
    """What so many random kills cost a run. TRAINYARD_SEED replays those of a seed that was printed."""
    seed = int(os.environ.get("TRAINYARD_SEED", random.randrange(1_000_000)))
    print(f"TRAINYARD_SEED={seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="trainyard-benchmark-") as scratch:
        outcome = random_kills(Path(scratch), kills, seed)
    rows = [
        ["killed", *outcome.killed, "restarts", "samples lost", "duplicated", "bit-equal"],
        [
            str(kills),
            *map(str, outcome.killed.values()),
            *map(str, (outcome.restarts, outcome.lost, outcome.duplicated)),
            "yes" if outcome.same_bits and outcome.same_losses else "no",
        ],
    ]
    figures = [
        Figure("samples_lost", outcome.lost, bar=0),
        Figure("samples_duplicated", outcome.duplicated, bar=0),
        Figure("runs_that_differ", not (outcome.same_bits and outcome.same_losses), bar=0),
    ]
    return rows, figures


if __name__ == "__main__":
    main("checkpoint", __doc__.splitlines()[0], measure, kill)
