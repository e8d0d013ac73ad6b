"""Random processes of a run are killed at random moments, agents, ranks, writers and warm ones, and the run is held against one
that was left alone. `tests/local/test_random_kills.py` is the short form, `python -m benchmarks.checkpoint --kills N` the long.

What is drawn follows from the seed, as far as timing lets it; that also says whether both ranks share the batch, or the layers.
"""

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conditions import eventually
from local_runs import (
    DEADLINE,
    PRETRAIN,
    PROCESSES,
    living,
    made,
    metrics,
    nothing_lives,
    running,
    steps_done,
    stored,
    trainyard,
    write_run,
)
from training import shard_digests

STEPS_A_KILL = 15
"""Of the run, so that something is left to disturb for the last one."""
IN_TRAINING = 0.5
"""Share of kills that wait for training to go on; the others hit whatever is under way, often the start of an attempt."""
STEPS_BETWEEN, SECONDS_BETWEEN = 15, 1.5
"""At most, from one kill to the next."""


@dataclass(frozen=True)
class Outcome:
    """What the kills have changed."""

    killed: dict[str, int]
    """By kind of process."""
    restarts: int
    lost: int
    """Positions of the data that were not trained on."""
    duplicated: int
    """Positions of the data that count more than once."""
    same_losses: bool
    same_bits: bool
    """Of weights, moments and random streams at the end."""
    nothing_lives: bool


def random_kills(scratch: Path, kills: int, seed: int) -> Outcome:
    """Run undisturbed, and with so many kills."""
    steps = kills * STEPS_A_KILL
    draw = random.Random(seed)
    shared = {"tensorParallel": draw.choice((1, 2))}
    stages = [
        {"name": "corpus", "prepare": {"sources": [{"builtin": "python-docs"}], "tokenizer": {"vocabSize": 300}}},
        {"name": "base", "pretrain": PRETRAIN | shared | {"steps": steps, "checkpoint": {"everySteps": 5}}},
    ]
    undisturbed, disturbed = scratch / "undisturbed", scratch / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
        write_run(folder, stages, recovery={"maxFailures": 100, "windowSeconds": 60})
    ended = trainyard(undisturbed, "run", "run.yaml", "--plain", seconds=DEADLINE + steps)
    assert ended.returncode == 0, ended.stdout + ended.stderr

    with running(disturbed) as process:
        eventually(lambda: stored(disturbed) and not nothing_lives(disturbed), 30, "the first process")
        killed = kill_at_random(disturbed, draw, kills, steps)
        assert process.wait(DEADLINE + steps) == 0, (disturbed / "output.txt").read_text()

    wanted, counted = range(steps * PRETRAIN["globalBatch"]), Counter(positions(disturbed))
    return Outcome(
        killed=killed,
        restarts=stored(disturbed)["status"]["restarts"]["total"],
        lost=sum(position not in counted for position in wanted),
        duplicated=sum(times - 1 for times in counted.values()),
        same_losses=losses(disturbed) == losses(undisturbed),
        same_bits=shard_digests(made(disturbed) / "base", steps) == shard_digests(made(undisturbed) / "base", steps),
        nothing_lives=nothing_lives(disturbed),
    )


def kill_at_random(folder: Path, draw: random.Random, kills: int, steps: int) -> dict[str, int]:
    """Kill so many processes, each of a random kind at a random moment; how many of each kind it were."""
    killed = dict.fromkeys(PROCESSES, 0)
    for _ in range(kills):
        by_steps, share, choice = draw.random() < IN_TRAINING, draw.random(), draw.random()
        if by_steps:
            target = len(trained(folder)) + 1 + int(share * STEPS_BETWEEN)
            eventually(lambda target=target: len(trained(folder)) >= target, 60, "some steps")  # type: ignore[misc]
        else:
            time.sleep(share * SECONDS_BETWEEN)
        kinds = eventually(lambda: living(folder), 60, "a process")
        kind = sorted(kinds)[int(choice * len(kinds))]
        try:
            os.kill(draw.choice(sorted(kinds[kind])), signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself: an instant like any other
            pass
        killed[kind] += 1
        assert steps_done(folder) < steps, "there is nothing left to disturb; raise STEPS_A_KILL"
    return killed


def trained(folder: Path) -> list[dict[str, Any]]:
    """A row for each step that was done, as often as it was done."""
    return [row for row in metrics(folder) if "loss" in row]


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The row of each step, in order: of one that was done several times, that of the last attempt."""
    last: dict[int, dict[str, Any]] = {}
    for row in sorted(trained(folder), key=lambda row: row["attempt"]):
        last[row["step"]] = row
    return [last[step] for step in sorted(last)]


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in ledger(folder)]


def positions(folder: Path) -> list[int]:
    """Positions in the order of data, as they were trained on."""
    rows = ledger(folder)
    return [position for row in rows for position in range(row["position"], row["position"] + row["sequences"])]
