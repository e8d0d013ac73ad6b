"""Twenty random processes are killed at random moments, agents, ranks and writers, and nothing is lost: the same bits at the
end, the same losses on the way, and each position of the data trained on exactly once.

What is drawn follows from the seed, which is printed; TRAINYARD_SEED replays it, as far as timing lets it.
"""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from conditions import eventually
from local_runs import PRETRAIN, living, made, metrics, nothing_lives, running, steps_done, stored, trainyard, write_run
from trainyard_api.checkpoint import read_manifest

KILLS = 20
LAST = 300
STAGES = [
    {"name": "corpus", "prepare": {"sources": [{"builtin": "python-docs"}], "tokenizer": {"vocabSize": 300}}},
    {"name": "base", "pretrain": PRETRAIN | {"steps": LAST, "checkpoint": {"everySteps": 5}}},
]
IN_TRAINING = 0.3
"""Share of kills that wait for training to go on; the others hit whatever is under way, often the start of an attempt."""
STEPS_BETWEEN, SECONDS_BETWEEN = 15, 1.5
"""At most, from one kill to the next."""


def test_random_kills_lose_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("TRAINYARD_SEED", random.randrange(1_000_000)))
    print(f"TRAINYARD_SEED={seed}")
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
        write_run(folder, STAGES, recovery={"maxFailures": 100})
    ended = trainyard(undisturbed, "run", "run.yaml", "--plain")
    assert ended.returncode == 0, ended.stdout + ended.stderr

    with running(disturbed) as process:
        eventually(lambda: stored(disturbed) and not nothing_lives(disturbed), 30, "the first process")
        killed = kill_at_random(disturbed, random.Random(seed))
        assert process.wait(120) == 0, (disturbed / "output.txt").read_text()
    print(f"killed {killed}; {stored(disturbed)['status']['restarts']}")

    assert sum(killed.values()) == KILLS
    assert shard_digests(disturbed) == shard_digests(undisturbed)
    assert losses(disturbed) == losses(undisturbed)
    assert positions(disturbed) == list(range(LAST * PRETRAIN["globalBatch"]))
    assert nothing_lives(disturbed)


def kill_at_random(folder: Path, draw: random.Random) -> dict[str, int]:
    """Kill so many processes, each of a random kind at a random moment; how many of each kind it were."""
    killed = {"agent": 0, "rank": 0, "writer": 0}
    for _ in range(KILLS):
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
        assert steps_done(folder) < LAST, "there is nothing left to disturb; raise LAST"
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


def shard_digests(folder: Path) -> list[str]:
    """SHA-256 of each rank's weights, moments and random streams at the end."""
    return [shard.sha256 for shard in read_manifest(made(folder) / f"base/checkpoints/step-{LAST:08}").shards]
