"""Training on a mixture in real ranks: the same global batches for any number of them, each part in its proportion, and
a held-out loss for each.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preparing import put, run_prepare
from training import TINY, Ranks, a_job, losses, metric_lines
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.data.mixture import Mixture
from trainyard_trainer.data.shards import TokenShards
from trainyard_trainer.engine.batches import num_samples

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
RESUMED = "three ranks, from the checkpoint of two"


@pytest.fixture(scope="module")
def corpora(corpus: Path) -> dict[str, Path]:
    """Two prepared corpora, the second with the tokenizer of the first."""
    storage = corpus.parent
    put(storage / "programs", {f"{n}.txt": f"def f{n}(x):\n    return x + {n}\n" * 20 for n in range(8)})
    run_prepare(storage, {"path": "programs"}, out="code", tokenizer={"stage": "corpus"})
    return {"corpus": corpus, "code": storage / "code"}


@pytest.fixture(scope="module")
def trained(corpora: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each training."""
    output = tmp_path_factory.mktemp("trained")
    inputs = {f"mixture[{number}].data": folder for number, folder in enumerate(corpora.values())}
    job = a_job("pretrain", output, SETTINGS, inputs)
    trainings: dict[int, list[dict[str, Any]]] = {
        2: [{"name": "two ranks"}],
        3: [{"name": "three ranks"}, {"name": RESUMED, "fork": {"name": "two ranks", "step": 4}}],
    }
    for world_size, each in trainings.items():
        todo = json.dumps([{"settings": SETTINGS, **training} for training in each])
        Ranks(job, world_size, attempt=world_size, script=(SCRIPT, todo)).succeed()
    return output


def test_any_number_of_ranks_trains_on_the_same_batches(trained: Path) -> None:
    """A sequence more or less of another part shows in the loss: the two corpora have no word in common."""
    assert losses(trained / "three ranks") == pytest.approx(losses(trained / "two ranks"), abs=1e-6)


def test_training_that_resumes_at_another_number_of_ranks_goes_on_in_the_order_of_data(trained: Path) -> None:
    reference = losses(trained / "two ranks")
    assert losses(trained / RESUMED) == pytest.approx({step: reference[step] for step in range(5, 9)}, abs=1e-6)


def test_the_ledger_has_each_sample_once_an_epoch_and_each_part_within_one_of_its_share(
    trained: Path, corpora: dict[str, Path]
) -> None:
    counts = [num_samples(TokenShards(folder / "train"), 16) for folder in corpora.values()]
    mixture = Mixture(7, list(WEIGHTS.values()), counts)
    first_half = [line for line in metric_lines(trained / "two ranks") if "loss" in line and line["step"] <= 4]
    second_half = [line for line in metric_lines(trained / RESUMED) if "loss" in line]
    ledger = [(line["position"], line["sequences"]) for line in first_half + second_half]
    assert ledger == [(step * GLOBAL_BATCH, GLOBAL_BATCH) for step in range(STEPS)]

    parts, samples = (np.concatenate(each) for each in zip(*(mixture.samples(*row) for row in ledger), strict=True))
    for part, (weight, count) in enumerate(zip(WEIGHTS.values(), counts, strict=True)):
        own = samples[parts == part]
        for number in range(len(own)):
            epoch = own[number // count * count : number]
            assert own[number] not in epoch
        share = np.arange(1, len(parts) + 1) * weight / sum(WEIGHTS.values())
        assert np.abs(np.cumsum(parts == part) - share).max() < 1


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
