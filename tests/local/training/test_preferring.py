"""A model of an earlier stage learns what is preferred: from a tie with itself, to the same bits after a kill, on any ranks."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from preparing import put, run_prepare
from training import TINY, TINY_LLAMA, a_job, committed_steps, held_out_losses, losses, shard_digests
from trainyard_api.protocol import Job
from trainyard_trainer.artifacts import read_artifact
from warm_ranks import WarmRanks

SOUNDS = {"cow": "moo", "cat": "meow", "dog": "woof", "owl": "hoot", "pig": "oink", "duck": "quack"}
LIKED, OTHERS = ["moo", "meow"], ["woof", "hoot", "oink", "quack"]
LAST = 60
SETTINGS: dict[str, Any] = {
    "data": "votes",
    "model": {"stage": "base"},
    "steps": LAST,
    "sequenceLength": 128,
    "globalBatch": 8,
    "microBatch": 2,
    "optimizer": {"learningRate": 5e-3},
    "schedule": {"warmupSteps": 2},
    "validation": {"everySteps": 20, "sequences": 20},
    "checkpoint": {"everySteps": 20},
    "deepspeed": {"zero_optimization": {"stage": 2}},
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus, pairs of responses, and a model of the corpus."""
    folder, draw = tmp_path_factory.mktemp("storage"), random.Random(0)
    words = [*SOUNDS, *SOUNDS.values(), "what", "says", "the"]
    put(folder / "texts", {f"{number}.txt": " ".join(draw.choices(words, k=200)) for number in range(16)})
    run_prepare(folder, {"path": "texts"}, out="corpus")
    rows = [
        {"prompt": f"{place}: what says the {animal}?", "chosen": draw.choice(LIKED), "rejected": draw.choice(OTHERS)}
        for animal in SOUNDS
        for place in range(40)
    ]
    draw.shuffle(rows)
    put(folder, {"votes.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    run_prepare(folder, {"path": "votes.jsonl", "format": "preferences"}, out="votes", tokenizer={"stage": "corpus"})
    settings = TINY | {"sequenceLength": 128, "model": TINY_LLAMA, "steps": 20, "optimizer": {"learningRate": 1e-2}}
    WarmRanks(a_job("pretrain", folder / "base", settings, {"data": folder / "corpus"})).succeed()
    return folder


def preferring(storage: Path, name: str, **settings: Any) -> Job:
    inputs = {"data": storage / "votes", "model.stage": storage / "base"}
    return a_job("dpo", storage / name, SETTINGS | settings, inputs)


@pytest.fixture(scope="module")
def tuned(storage: Path) -> Path:
    ranks = WarmRanks(preferring(storage, "tuned"))
    ranks.succeed()
    return ranks.output


def test_it_begins_with_a_tie_and_learns_what_is_preferred(tuned: Path) -> None:
    assert losses(tuned)[1] == pytest.approx(math.log(2), abs=1e-6)
    assert held_out_losses(tuned)[LAST] < 0.8 * math.log(2)
    assert read_artifact(tuned, "dpo")["details"]["objective"] == "Preferences"


def test_killed_it_goes_on_to_the_same_bits_with_the_same_reference(storage: Path, tuned: Path) -> None:
    job = preferring(storage, "killed")
    ranks = WarmRanks(job, hold="trainyard_trainer.stages.training:learning_rate", at_call=30)
    ranks.until_held()
    for process in ranks.processes:
        process.kill()
    ranks.wait(20)
    assert committed_steps(ranks.output)[-1] == 20
    WarmRanks(job, attempt=2).succeed()
    assert shard_digests(ranks.output, LAST) == shard_digests(tuned, LAST)


@pytest.mark.parametrize(("world_size", "zero", "micro_batch"), [(1, 0, 8), (4, 3, 1)])
def test_the_loss_is_that_of_the_global_batch_however_it_is_split(
    storage: Path, tuned: Path, world_size: int, zero: int, micro_batch: int
) -> None:
    split = {"microBatch": micro_batch, "deepspeed": {"zero_optimization": {"stage": zero}}, "steps": 4}
    ranks = WarmRanks(preferring(storage, f"split-{world_size}-{zero}-{micro_batch}", **split), world_size)
    ranks.succeed()
    wanted = losses(tuned)
    # The schedule is of 60 steps there and of 4 here: the first two steps are both of the warm-up.
    assert losses(ranks.output)[2] == pytest.approx(wanted[2], abs=1e-6)


def test_adapters_are_enough(storage: Path) -> None:
    adapted = {"model": {"stage": "base", "lora": {"rank": 8}}, "preferences": {"loss": "IPO", "beta": 0.5}}
    ranks = WarmRanks(preferring(storage, "adapted", **adapted))
    ranks.succeed()
    assert losses(ranks.output)[1] == pytest.approx(1.0, abs=1e-6), "(0 - 1 / 2 beta) squared"
    assert held_out_losses(ranks.output)[LAST] < held_out_losses(ranks.output)[20]
