"""A model of an earlier stage learns what is preferred, by dpo from a tie with itself, or as a reward model: to the same bits
after a kill, on any ranks.
"""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from preparing import put, run_prepare
from training import TINY, TINY_LLAMA, a_job, committed_steps, held_out_losses, losses, metric_lines, shard_digests
from trainyard_api.protocol import Job
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.checkpoint.trained import load_trained
from trainyard_trainer.data.objectives.objective import Sample
from trainyard_trainer.data.objectives.rewards import Rewards
from trainyard_trainer.group import Group
from trainyard_trainer.preferences.reward import scores
from trainyard_trainer.stages.export import export
from transformers import AutoModelForSequenceClassification
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
    rated = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in rows
        for side in ("chosen", "rejected")
    ]
    put(folder, {"rated.jsonl": "".join(json.dumps(row) + "\n" for row in draw.sample(rated, 240))})
    run_prepare(folder, {"path": "rated.jsonl", "format": "unpaired"}, out="rated", tokenizer={"stage": "corpus"})
    settings = TINY | {"sequenceLength": 128, "model": TINY_LLAMA, "steps": 20, "optimizer": {"learningRate": 1e-2}}
    WarmRanks(a_job("pretrain", folder / "base", settings, {"data": folder / "corpus"})).succeed()
    return folder


def preferring(storage: Path, name: str, kind: str = "dpo", **settings: Any) -> Job:
    inputs = {"data": storage / "votes", "model.stage": storage / "base"}
    return a_job(kind, storage / name, SETTINGS | settings, inputs)


@pytest.fixture(scope="module")
def tuned(storage: Path) -> Path:
    ranks = WarmRanks(preferring(storage, "tuned"))
    ranks.succeed()
    return ranks.output


def test_it_begins_with_a_tie_and_learns_what_is_preferred(tuned: Path) -> None:
    assert losses(tuned)[1] == pytest.approx(math.log(2), abs=1e-6)
    assert held_out_losses(tuned)[LAST] < 0.8 * math.log(2)
    assert read_artifact(tuned, "dpo")["details"]["objective"] == "Preferences"
    first, *_, last = (line for line in metric_lines(tuned) if "loss" in line)
    assert first["accuracy"] == pytest.approx(0.5, abs=0.5)
    assert first["reward_margin"] == pytest.approx(0, abs=1e-5)
    assert last["reward_margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"], abs=1e-6)
    assert read_artifact(tuned, "dpo")["metrics"]["held_out_accuracy"] > 0.9


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


@pytest.fixture(scope="module")
def judge(storage: Path) -> Path:
    ranks = WarmRanks(preferring(storage, "judge", "reward"))
    ranks.succeed()
    return ranks.output


def test_a_reward_model_learns_what_is_preferred_and_is_centred(storage: Path, judge: Path) -> None:
    made = read_artifact(judge, "reward")
    assert made["details"]["objective"] == "Rewards"
    assert made["metrics"]["accuracy"] > 0.9
    assert made["metrics"]["accuracy_low"] < made["metrics"]["accuracy"] <= made["metrics"]["accuracy_high"]
    assert held_out_losses(judge)[LAST] < 0.7 * math.log(2)
    rows = Rewards(128, begin=0).open(storage / "votes/train")
    batch = Rewards(128, begin=0).batch([Sample(rows, number, number) for number in range(len(rows))])
    with torch.no_grad():
        found = scores(load_trained(judge).model, batch)
    assert found.std() > 0.3
    assert found.mean() == pytest.approx(0, abs=1e-4)


def test_what_a_reward_model_is_measured_at_is_what_it_was_reported_with(storage: Path, judge: Path) -> None:
    inputs = {"model": judge, "data": storage / "votes"}
    job = a_job("evaluate", storage / "judged", {"model": "judge", "data": "votes", "sequenceLength": 128}, inputs)
    WarmRanks(job, 2).succeed()
    measured = json.loads((storage / "judged/report.json").read_text())
    reported = json.loads((judge / "report.json").read_text())["votes"]
    assert measured["pairs"] == reported["pairs"] > 5
    for figure in ("accuracy", "accuracy_low", "calibration_error", "score_deviation"):
        assert measured[figure] == pytest.approx(reported[figure], abs=1e-4)
    assert measured["by_length"] == reported["by_length"]


def test_a_reward_model_is_exported_for_sequence_classification(judge: Path, tmp_path: Path) -> None:
    job = a_job("export", tmp_path, {"model": "judge"}, {"model": judge})
    export(Group(job, 1, 0, 1, 0, output=tmp_path, inputs={"model": judge}))
    opened: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    ours: Any = load_trained(judge).model
    tokens = torch.arange(1, 20)[None]
    with torch.no_grad():
        theirs = opened(tokens).logits + ours.score.bias
        assert torch.allclose(theirs, ours(tokens, torch.arange(19)[None], torch.tensor([18])), atol=1e-5)


def test_heads_on_adapters_go_on_to_the_same_bits_after_a_kill(storage: Path) -> None:
    settings: dict[str, Any] = {"heads": 2, "model": {"stage": "base", "lora": {"rank": 4}}, "steps": 6}
    settings |= {"checkpoint": {"everySteps": 3}, "centring": 0.01}
    undisturbed = WarmRanks(preferring(storage, "heads", "reward", **settings))
    job = preferring(storage, "killed-heads", "reward", **settings)
    ranks = WarmRanks(job, hold="trainyard_trainer.stages.training:learning_rate", at_call=5)
    ranks.until_held()
    for process in ranks.processes:
        process.kill()
    ranks.wait(20)
    WarmRanks(job, attempt=2).succeed()
    undisturbed.succeed()
    assert shard_digests(ranks.output, 6) == shard_digests(undisturbed.output, 6)
    for key in ("scores", "lora"):
        assert (
            read_artifact(ranks.output, "reward")["details"][key]
            == read_artifact(undisturbed.output, "reward")["details"][key]
        )
    assert read_artifact(undisturbed.output, "reward")["metrics"]["head_deviation"] > 0


@pytest.mark.parametrize(("world_size", "zero", "micro_batch"), [(1, 0, 8), (4, 3, 1)])
def test_rewards_of_a_global_batch_are_the_same_however_it_is_split(
    storage: Path, judge: Path, world_size: int, zero: int, micro_batch: int
) -> None:
    split = {"microBatch": micro_batch, "deepspeed": {"zero_optimization": {"stage": zero}}, "steps": 4}
    ranks = WarmRanks(preferring(storage, f"judge-{world_size}", "reward", **split), world_size)
    ranks.succeed()
    for figure in ("loss", "accuracy", "reward_margin"):
        of_all, of_these = (
            {line["step"]: line[figure] for line in metric_lines(it) if "loss" in line} for it in (judge, ranks.output)
        )
        assert of_these[1] == pytest.approx(of_all[1], abs=1e-6)
        assert of_these[2] == pytest.approx(of_all[2], abs=1e-5)


KTO: dict[str, Any] = {"preferences": {"loss": "KTO", "beta": 0.5, "undesirableWeight": 2}}


@pytest.fixture(scope="module")
def unpaired(storage: Path) -> Path:
    inputs = {"data": storage / "rated", "model.stage": storage / "base"}
    ranks = WarmRanks(a_job("dpo", storage / "unpaired", SETTINGS | KTO, inputs))
    ranks.succeed()
    return ranks.output


def test_single_responses_that_are_good_or_not_are_enough(unpaired: Path) -> None:
    first, *_, last = (line for line in metric_lines(unpaired) if "loss" in line)
    assert first["reward"] == first["reference_point"] == pytest.approx(0, abs=1e-5)
    assert 0.5 < first["loss"] < 1, "half of the weight of each response"
    assert last["accuracy"] > 0.8
    assert last["reference_point"] >= 0
    assert read_artifact(unpaired, "dpo")["metrics"]["held_out_accuracy"] > 0.8


def test_the_reference_point_is_that_of_the_global_batch_however_it_is_split(storage: Path, unpaired: Path) -> None:
    inputs = {"data": storage / "rated", "model.stage": storage / "base"}
    split = {"microBatch": 4, "deepspeed": {"zero_optimization": {"stage": 0}}, "steps": 4}
    ranks = WarmRanks(a_job("dpo", storage / "unpaired-whole", SETTINGS | KTO | split, inputs), 1)
    ranks.succeed()
    one, other = ([line for line in metric_lines(it) if "loss" in line] for it in (unpaired, ranks.output))
    for figure in ("loss", "accuracy", "reward", "reference_point"):
        assert other[1][figure] == pytest.approx(one[1][figure], abs=1e-5)
