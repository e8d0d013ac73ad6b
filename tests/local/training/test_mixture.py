"""Training on a mixture in real ranks: the same global batches for any number of them, each part in its proportion, and
a held-out loss for each.
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preparing import put, run_prepare
from training import TINY, Ranks, a_job, losses, metric_lines
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.data.batch import IGNORED
from trainyard_trainer.data.objectives.next_token import NextToken
from trainyard_trainer.data.objectives.objective import Sample

SCRIPT = str(Path(__file__).with_name("several_trainings.py"))
WEIGHTS = {"corpus": 3, "code": 2}
STEPS, GLOBAL_BATCH = 8, 12
SETTINGS: dict[str, Any] = {name: value for name, value in TINY.items() if name != "data"} | {
    "mixture": [{"data": name, "weight": weight} for name, weight in WEIGHTS.items()],
    "steps": STEPS,
    "globalBatch": GLOBAL_BATCH,
    "checkpoint": {"everySteps": 4},
    "validation": {"everySteps": 4, "sequences": 5},
    "deepspeed": {"zero_optimization": {"stage": 2}},
}
WITH_SETS = TINY | {"validation": {"everySteps": 4, "sequences": 5, "sets": [{"data": name} for name in WEIGHTS]}}
RESUMED = "three ranks, from the checkpoint of two"


@pytest.fixture(scope="module")
def corpora(corpus: Path) -> dict[str, Path]:
    """Two prepared corpora, the second with the tokenizer of the first."""
    storage = corpus.parent
    draw = random.Random(1)
    put(storage / "programs", {f"{n}.txt": f"{draw.sample(range(1000, 10_000), 14)}" for n in range(8)})
    run_prepare(storage, {"path": "programs"}, out="code", tokenizer={"stage": "corpus"})
    return {"corpus": corpus, "code": storage / "code"}


@pytest.fixture(scope="module")
def trained(corpora: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each training."""
    output = tmp_path_factory.mktemp("trained")
    inputs = {f"mixture[{number}].data": folder for number, folder in enumerate(corpora.values())}
    inputs |= {"data": corpora["corpus"]}
    inputs |= {f"validation.sets[{number}].data": folder for number, folder in enumerate(corpora.values())}
    job = a_job("pretrain", output, SETTINGS, inputs)
    trainings: dict[int, list[dict[str, Any]]] = {
        2: [{"name": "two ranks"}, {"name": "sets", "settings": WITH_SETS}],
        3: [{"name": "three ranks"}, {"name": RESUMED, "fork": {"name": "two ranks", "step": 4}}],
    }
    for world_size, each in trainings.items():
        todo = json.dumps([{"settings": SETTINGS, **training} for training in each])
        Ranks(job, world_size, attempt=world_size, script=(SCRIPT, todo)).succeed()
    return output


def global_batches(output: Path) -> dict[int, list[list[int]]]:
    """Step → the sequences that all ranks, in order, trained on in it."""
    batches: dict[int, list[list[int]]] = {}
    for ledger in sorted(output.glob("sequences-*.jsonl")):
        for line in ledger.read_text().splitlines():
            micro_batch = json.loads(line)
            batches.setdefault(micro_batch["step"], []).extend(micro_batch["labels"])
    return batches


def test_any_number_of_ranks_trains_on_the_same_global_batches(trained: Path) -> None:
    reference = global_batches(trained / "two ranks")
    assert list(reference) == list(range(1, STEPS + 1))
    assert global_batches(trained / "three ranks") == reference
    assert losses(trained / "three ranks") == pytest.approx(losses(trained / "two ranks"), abs=1e-6)


def rows_of(corpora: dict[str, Path]) -> dict[tuple[int, ...], tuple[str, int]]:
    """Labels of a row → the corpus that has it, and its number there."""
    objective = NextToken(16, begin=0)
    splits = {name: objective.open(folder / "train") for name, folder in corpora.items()}
    rows = {
        tuple(objective.batch([Sample(split, row, 0)]).labels[0].tolist()): (name, row)
        for name, split in splits.items()
        for row in range(len(split))
    }
    assert len(rows) == sum(map(len, splits.values()))
    return rows


def test_the_loss_of_each_part_is_told(trained: Path, corpora: dict[str, Path]) -> None:
    """All of them, by the labels that the global batch has of each, are the loss."""
    rows, batches = rows_of(corpora), global_batches(trained / "two ranks")
    of_ranks = [
        [line for line in metric_lines(trained / name) if "loss" in line] for name in ("two ranks", "three ranks")
    ]
    for two, three in zip(*of_ranks, strict=True):
        corpus, code = two["loss_corpus"], two["loss_code"]
        labels = {"corpus": 0, "code": 0}
        for row in batches[two["step"]]:
            labels[rows[tuple(row)][0]] += sum(label != IGNORED for label in row)
        mean = (labels["corpus"] * corpus + labels["code"] * code) / sum(labels.values())
        assert two["loss"] == pytest.approx(mean, abs=1e-5)
        assert abs(corpus - code) > 1e-4
        assert (three["loss_corpus"], three["loss_code"]) == pytest.approx((corpus, code), abs=1e-5)


def test_training_that_resumes_at_another_number_of_ranks_goes_on_with_the_same_global_batches(trained: Path) -> None:
    batches, reference = global_batches(trained / "two ranks"), losses(trained / "two ranks")
    assert global_batches(trained / RESUMED) == {step: batches[step] for step in range(5, 9)}
    assert losses(trained / RESUMED) == pytest.approx({step: reference[step] for step in range(5, 9)}, abs=1e-6)


def test_what_was_trained_on_is_each_sample_once_an_epoch_and_each_part_within_one_of_its_share(
    trained: Path, corpora: dict[str, Path]
) -> None:
    """The sequences that ranks read, before and after resuming, are looked up in the corpora."""
    places = rows_of(corpora)
    sizes = Counter(name for name, _ in places.values())
    halves = (global_batches(trained / "two ranks"), range(1, 5)), (global_batches(trained / RESUMED), range(5, 9))
    ledger = [places[tuple(row)] for batches, steps in halves for step in steps for row in batches[step]]
    assert len(ledger) == STEPS * GLOBAL_BATCH

    for name, weight in WEIGHTS.items():
        share = np.arange(1, len(ledger) + 1) * weight / sum(WEIGHTS.values())
        assert np.abs(np.cumsum([source == name for source, _ in ledger]) - share).max() < 1
        samples = [sample for source, sample in ledger if source == name]
        epochs = [samples[start : start + sizes[name]] for start in range(0, len(samples), sizes[name])]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert len(epochs) == 2, "the second corpus is small enough to be begun anew"


def test_the_positions_in_the_metrics_go_on_where_the_checkpoint_ended(trained: Path) -> None:
    first_half = [line for line in metric_lines(trained / "two ranks") if "loss" in line and line["step"] <= 4]
    second_half = [line for line in metric_lines(trained / RESUMED) if "loss" in line]
    ledger = [(line["position"], line["sequences"]) for line in first_half + second_half]
    assert ledger == [(step * GLOBAL_BATCH, GLOBAL_BATCH) for step in range(STEPS)]


def test_validation_sets_are_measured_by_name(trained: Path) -> None:
    [line] = [line for line in metric_lines(trained / "sets") if "held_out_loss" in line]
    assert line["held_out_loss"] == line["held_out_loss_corpus"]
    assert line["held_out_loss_code"] != line["held_out_loss_corpus"]
    metrics = read_artifact(trained / "sets", "pretrain")["metrics"]
    assert metrics["held_out_loss_code"] == line["held_out_loss_code"]


def test_the_held_out_loss_is_that_of_the_parts_in_proportion(trained: Path) -> None:
    validations = [line for line in metric_lines(trained / "two ranks") if "held_out_loss" in line]
    assert [line["step"] for line in validations] == [4, 8]
    for line in validations:
        expected = (3 * line["held_out_loss_corpus"] + 2 * line["held_out_loss_code"]) / 5
        assert line["held_out_loss"] == pytest.approx(expected)
        assert line["held_out_loss_corpus"] != line["held_out_loss_code"]
    metrics = read_artifact(trained / "two ranks", "pretrain")["metrics"]
    assert {name: metrics[name] for name in validations[-1] if name.startswith("held_out_loss")} == {
        name: value for name, value in validations[-1].items() if name.startswith("held_out_loss")
    }
    again = [line for line in metric_lines(trained / "three ranks") if "held_out_loss" in line]
    assert again[-1]["held_out_loss_code"] == pytest.approx(validations[-1]["held_out_loss_code"], abs=1e-6)
