"""A preference that can be learned is: a model that was fine-tuned on answers of which few follow a rule gives such answers
rarely; after dpo on pairs that a judge of the rule has chosen it gives hardly any others, and a reward model knows them.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from preparing import put, run_prepare
from training import TINY, TINY_LLAMA, a_job
from trainyard_api.protocol import Job
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.preferences.judging import wilson
from warm_ranks import WarmRanks

ANIMALS = ["cow", "cat", "dog", "owl", "pig", "duck"]
LIKED, OTHERS = ["moo", "meow"], ["woof", "hoot", "oink", "quack"]
PROMPTS = [f"{place}: what says the {animal}?" for place in range(5) for animal in ANIMALS]
COMMON: dict[str, Any] = {
    "sequenceLength": 128,
    "globalBatch": 8,
    "microBatch": 8,
    "schedule": {"warmupSteps": 2},
    "validation": {"everySteps": 1000, "sequences": 8},
    "checkpoint": {"everySteps": 1000},
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of which one in six follows the rule, and pairs of which always the one that does is chosen."""
    folder, draw = tmp_path_factory.mktemp("storage"), random.Random(0)
    words = [*ANIMALS, *LIKED, *OTHERS, "what", "says", "the"]
    put(folder / "texts", {f"{number}.txt": " ".join(draw.choices(words, k=200)) for number in range(16)})
    run_prepare(folder, {"path": "texts"}, out="corpus")
    asked = [f"{place}: what says the {animal}?" for place in range(60) for animal in ANIMALS]
    chat = [{"prompt": each, "completion": draw.choice(LIKED if draw.random() < 1 / 6 else OTHERS)} for each in asked]
    votes = [{"prompt": each, "chosen": draw.choice(LIKED), "rejected": draw.choice(OTHERS)} for each in asked]
    for name, form, rows in (("chat", "conversations", chat), ("votes", "preferences", votes)):
        put(folder, {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
        run_prepare(folder, {"path": f"{name}.jsonl", "format": form}, out=name, tokenizer={"stage": "corpus"})
    settings = TINY | {"sequenceLength": 128, "model": TINY_LLAMA, "steps": 20, "optimizer": {"learningRate": 1e-2}}
    WarmRanks(a_job("pretrain", folder / "base", settings, {"data": folder / "corpus"})).succeed()
    return folder


def seeded(job: Job, seed: int) -> Job:
    return job.model_copy(update={"seed": seed})


def share_of_liked(storage: Path, model: Path, seed: int) -> tuple[float, tuple[float, float]]:
    """Of a model's answers, drawn as it would give them, with the 95 % interval."""
    samples = {"prompts": PROMPTS, "maxNewTokens": 8, "temperature": 1}
    settings = {"model": "model", "data": "chat", "sequenceLength": 128, "samples": samples}
    job = a_job("evaluate", model.with_name(f"{model.name}-says"), settings, {"model": model, "data": storage / "chat"})
    WarmRanks(seeded(job, seed), 1).succeed()
    said = json.loads((model.with_name(f"{model.name}-says") / "report.json").read_text())["samples"]
    liked = sum(each["text"].strip() in LIKED for each in said) / len(said)
    return liked, wilson(liked, len(said))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_preferred_becomes_common(storage: Path, seed: int) -> None:
    folder = storage / f"seed-{seed}"
    tuned, judge, preferred = (folder / name for name in ("tuned", "judge", "preferred"))
    settings = COMMON | {"data": "chat", "model": {"stage": "base"}, "steps": 150, "optimizer": {"learningRate": 1e-2}}
    job = a_job("sft", tuned, settings, {"data": storage / "chat", "model.stage": storage / "base"})
    WarmRanks(seeded(job, seed), 1).succeed()
    of_votes = COMMON | {"data": "votes", "model": {"stage": "tuned"}, "optimizer": {"learningRate": 2e-3}}
    inputs = {"data": storage / "votes", "model.stage": tuned}
    WarmRanks(seeded(a_job("reward", judge, of_votes | {"steps": 40}, inputs), seed), 1).succeed()
    WarmRanks(seeded(a_job("dpo", preferred, of_votes | {"steps": 80}, inputs), seed), 1).succeed()

    before, (_, before_high) = share_of_liked(storage, tuned, seed)
    after, (after_low, _) = share_of_liked(storage, preferred, seed)
    known = read_artifact(judge, "reward")["metrics"]
    print(f"seed {seed}: {before:.0%} before, {after:.0%} after, judge {known['accuracy']:.0%}")
    assert before_high < 0.6, "it follows the rule rarely"
    assert after >= 0.9
    assert after_low > before_high
    assert known["accuracy_low"] > 0.8
