"""Every family, on two ranks: trained, resumed to the same bits, measured, exported, and gone on with from the export."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from preparing import put, run_prepare
from training import TINY, Ranks, a_job, held_out_losses, losses, shard_digests
from trainyard_api.protocol import Job
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.group import Group
from trainyard_trainer.stages.export import export

SCRIPT = str(Path(__file__).with_name("several_trainings.py"))
AUTO_CLASSES = {
    "qwen3": "AutoModelForCausalLM",
    "t5": "AutoModelForSeq2SeqLM",
    "t5, pairs": "AutoModelForSeq2SeqLM",
    "bert": "AutoModelForMaskedLM",
    "modernbert": "AutoModelForMaskedLM",
}
METRICS = {
    "qwen3": "perplexity",
    "t5": "span_corruption_loss",
    "t5, pairs": "sequence_to_sequence_loss",
    "bert": "masked_lm_loss",
    "modernbert": "masked_lm_loss",
}
SETTINGS = TINY | {
    "sequenceLength": 48,
    "globalBatch": 4,
    "optimizer": {"learningRate": 3e-3},
    "deepspeed": {"zero_optimization": {"stage": 2}},
}
EVALUATE = {"model": "base", "data": "corpus", "sequenceLength": 48, "microBatch": 2}


def of(name: str) -> dict[str, Any]:
    return SETTINGS | {"model": FAMILIES[name.partition(",")[0]]}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts and their last words, prepared."""
    storage, draw = tmp_path_factory.mktemp("pairs"), random.Random(0)
    words = [draw.sample(["bad", "dig", "log", "men", "sun", "tap"], 4) for _ in range(200)]
    rows = [json.dumps({"say": " ".join(each), "back": each[-1]}) for each in words]
    put(storage, {"rows.jsonl": "\n".join(rows)})
    run_prepare(storage, {"path": "rows.jsonl", "textField": "say", "targetField": "back"}, out="corpus")
    return storage / "corpus"


@pytest.fixture(scope="module")
def trained(corpus: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each training."""
    output = tmp_path_factory.mktemp("trained")
    todo: list[dict[str, Any]] = []
    for name in METRICS:
        settings = of(name) | ({"objective": "SequenceToSequence"} if "pairs" in name else {})
        inputs = {"data": str(pairs if "pairs" in name else corpus)}
        todo.append({"name": name, "settings": settings, "inputs": inputs, "evaluate": EVALUATE})
        fork = {"name": name, "step": 2}
        todo.append({"name": f"{name}, resumed", "settings": settings, "inputs": inputs, "fork": fork})
    job = a_job("pretrain", output, TINY, {"data": corpus})
    Ranks(job, 2, script=(SCRIPT, json.dumps(todo))).succeed()
    return output


@pytest.mark.parametrize("name", METRICS)
def test_it_learns_and_resumes_to_the_same_bits(trained: Path, name: str) -> None:
    got = losses(trained / name)
    assert got[4] < got[1]
    assert got[1] == pytest.approx(torch.tensor(400.0).log().item(), rel=0.25)
    assert shard_digests(trained / f"{name}, resumed", 4) == shard_digests(trained / name, 4)
    assert held_out_losses(trained / f"{name}, resumed")[4] == held_out_losses(trained / name)[4]
    real = read_artifact(trained / name, "pretrain")["metrics"]["real_positions"]
    assert real >= (0.85 if "pairs" in name else 0.99), "pairs are all about as long: three a row, and some room"


@pytest.mark.parametrize("name", METRICS)
def test_it_is_measured_by_what_it_was_trained_on(trained: Path, name: str) -> None:
    metrics = read_artifact(trained / f"{name}-evaluated", "evaluate")["metrics"]
    assert ("bits_per_byte" in metrics) == (name == "qwen3")
    loss = metrics[METRICS[name]]
    if name != "qwen3":
        assert loss == pytest.approx(held_out_losses(trained / name)[4], rel=0.1)


@pytest.mark.parametrize("name", METRICS)
def test_the_export_opens_with_its_auto_class_and_training_goes_on_from_it(
    trained: Path, corpus: Path, tmp_path: Path, name: str
) -> None:
    import transformers

    exported = tmp_path / "export"
    exported.mkdir()
    export(single(a_job("export", exported, {"model": "base"}, {"model": trained / name}), trained / name))
    folder = exported / "model"
    model = getattr(transformers, AUTO_CLASSES[name]).from_pretrained(folder, local_files_only=True)
    assert type(model).__module__.startswith("transformers.")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert len(tokenizer) == model.config.vocab_size
    if name == "bert":
        assert tokenizer.convert_tokens_to_ids(tokenizer.mask_token) == model.config.vocab_size - 1
    if name == "t5":
        assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == model.config.vocab_size - 100


def single(job: Job, model: Path) -> Group:
    """One rank, in this process."""
    return Group(job, 1, 0, 1, 0, Path(job.output_uri.removeprefix("file://")), {"model": model})
