"""A model of an earlier stage is fine-tuned on conversations by two ranks: it learns to answer, resumes to the same bits after
a kill though noise is drawn, is measured by what it says, answers prompts, and is exported with its chat template.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from preparing import put, run_prepare
from training import TINY, TINY_LLAMA, a_job, committed_steps, held_out_losses, shard_digests
from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import Job
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.group import Group
from trainyard_trainer.stages.export import export
from transformers import AutoTokenizer
from warm_ranks import WarmRanks

SOUNDS = {"cow": "moo", "cat": "meow", "dog": "woof", "owl": "hoot", "pig": "oink", "duck": "quack"}
LAST = 500
SETTINGS: dict[str, Any] = {
    "data": "chat",
    "model": {"stage": "base"},
    "steps": LAST,
    "sequenceLength": 64,
    "globalBatch": 8,
    "microBatch": 2,
    "embeddingNoise": 5,
    "optimizer": {"learningRate": 1e-2},
    "schedule": {"warmupSteps": 4},
    "validation": {"everySteps": 50, "sequences": 20},
    "checkpoint": {"everySteps": 100},
    "deepspeed": {"zero_optimization": {"stage": 2}},
}
UPDATE = "trainyard_trainer.stages.training:learning_rate"
"""Called once before each step."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus and prepared conversations, with the tokenizer of one."""
    folder, draw = tmp_path_factory.mktemp("storage"), random.Random(0)
    words = [*SOUNDS, *SOUNDS.values(), "what", "says", "the"]
    put(folder / "texts", {f"{number}.txt": " ".join(draw.choices(words, k=200)) for number in range(16)})
    run_prepare(folder, {"path": "texts"}, out="corpus")
    asked = [(animal, f"{place} {number}") for animal in SOUNDS for place in ("farm", "yard") for number in range(20)]
    rows = [{"prompt": f"{where}: what says the {animal}?", "completion": SOUNDS[animal]} for animal, where in asked]
    draw.shuffle(rows)
    put(folder, {"chat.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    run_prepare(folder, {"path": "chat.jsonl", "format": "conversations"}, out="chat", tokenizer={"stage": "corpus"})
    return folder


@pytest.fixture(scope="module")
def base(storage: Path) -> Path:
    settings = TINY | {"sequenceLength": 64, "model": TINY_LLAMA, "steps": 60, "optimizer": {"learningRate": 1e-2}}
    ranks = WarmRanks(a_job("pretrain", storage / "base", settings, {"data": storage / "corpus"}))
    ranks.succeed()
    return ranks.output


def tuning(storage: Path, name: str, **settings: Any) -> Job:
    inputs = {"data": storage / "chat", "model.stage": storage / "base"}
    return a_job("sft", storage / name, SETTINGS | settings, inputs)


@pytest.fixture(scope="module")
def tuned(storage: Path, base: Path) -> Path:
    ranks = WarmRanks(tuning(storage, "tuned"))
    ranks.succeed()
    return ranks.output


def test_it_learns_what_the_assistant_says(tuned: Path) -> None:
    losses = held_out_losses(tuned)
    assert losses[LAST] < 0.2 < 1 < losses[50] or losses[LAST] < 0.2 * losses[50]
    made = read_artifact(tuned, "sft")
    assert made["details"]["objective"] == "Responses"
    assert made["details"]["packing"]["chat"]["documentsTooLong"] == 0


def test_killed_it_goes_on_to_the_same_bits(storage: Path, base: Path, tuned: Path) -> None:
    job = tuning(storage, "killed")
    ranks = WarmRanks(job, hold=UPDATE, at_call=150)
    ranks.until_held()
    for process in ranks.processes:
        process.kill()
    ranks.wait(20)
    assert committed_steps(ranks.output)[-1] == 100
    WarmRanks(job, attempt=2).succeed()
    assert shard_digests(ranks.output, LAST) == shard_digests(tuned, LAST)


def test_adapters_alone_learn_too_and_are_merged(storage: Path, base: Path) -> None:
    job = tuning(storage, "adapted", model={"stage": "base", "lora": {"rank": 8}}, embeddingNoise=0)
    WarmRanks(job).succeed()
    losses = held_out_losses(storage / "adapted")
    assert losses[LAST] < losses[50] - 0.2, "of a model that has hardly learned to speak"


def test_it_is_measured_by_its_answers_and_gives_some(storage: Path, tuned: Path) -> None:
    prompts = [f"farm {number}: what says the {animal}?" for number, animal in enumerate(SOUNDS)]
    settings = {
        "model": "tuned",
        "data": "chat",
        "sequenceLength": 64,
        "samples": {"prompts": prompts, "maxNewTokens": 8, "temperature": 0},
    }
    job = a_job("evaluate", storage / "report", settings, {"model": tuned, "data": storage / "chat"})
    WarmRanks(job, 1).succeed()
    report = json.loads((storage / "report/report.json").read_text())
    assert report["response_loss"] == pytest.approx(held_out_losses(tuned)[LAST], rel=0.2)
    answers = [sample["text"].strip() for sample in report["samples"]]
    assert sum(answer == sound for answer, sound in zip(answers, SOUNDS.values(), strict=True)) >= 5, answers


def test_the_exported_folder_has_the_chat_template(storage: Path, tuned: Path) -> None:
    job = a_job("export", storage / "folder", {"model": "tuned"}, {"model": tuned})
    (storage / "folder").mkdir()
    export(Group(job, 1, 0, 1, 0, output=storage / "folder", inputs={"model": tuned}))
    tokenizer = AutoTokenizer.from_pretrained(storage / "folder/model")
    asked = [{"role": "user", "content": "what says the cow?"}]
    assert "<|assistant|>" in tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)


def test_text_without_roles_is_refused_by_the_field(storage: Path, base: Path) -> None:
    job = tuning(storage, "refused")
    job = job.model_copy(update={"inputs": job.inputs | {"data": f"file://{storage / 'corpus'}"}})
    ranks = WarmRanks(job, 1)
    assert ranks.wait() == [ExitCode.PERMANENT], ranks.said()
    [failure] = [report["failure"] for report in ranks.reports() if "failure" in report]
    assert failure["message"].startswith("sft.data: holds text without roles")
