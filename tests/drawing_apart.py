"""Ranks that learn from rewards and workers that draw for them, over Ray, each in a process here."""

import json
import random
from pathlib import Path
from typing import Any

import psutil
from preparing import put, run_prepare
from training import TINY, a_corpus, a_job
from warm_ranks import WarmRanks

LAST = 12
SETTINGS: dict[str, Any] = {
    "data": "pairs",
    "model": {"stage": "base"},
    "steps": LAST,
    "sequenceLength": 64,
    "globalBatch": 8,
    "microBatch": 2,
    "rewards": [{"function": "rewards.py:low"}],
    "optimizer": {"learningRate": 1e-3},
    "schedule": {"warmupSteps": 2},
    "validation": {"everySteps": 6, "sequences": 5},
    "checkpoint": {"everySteps": 5},
    "deepspeed": {"zero_optimization": {"stage": 1}},
}
REWARDS = """
def low(completions, **_):
    return [float(len(said) < 5) for said in completions]

def once_more(turns, **_):
    return ["Why?" if len(said) == 1 else None for said in turns]
"""
HELD = "trainyard_trainer.stages.training:learning_rate"


def a_tuned_model(folder: Path, **config: int) -> None:
    """Prompts, functions that reward, and a model that was tuned on answers, with these sizes."""
    draw = random.Random(0)
    rows = [{"prompt": f"{draw.randrange(10**6)}?", "completion": str(n)} for n in range(300)]
    put(folder, {"pairs.jsonl": "".join(json.dumps(row) + "\n" for row in rows), "rewards.py": REWARDS})
    a_corpus(folder)
    source = {"path": "pairs.jsonl", "format": "conversations"}
    run_prepare(folder, source, out="pairs", tokenizer={"stage": "corpus"})
    model = {**TINY["model"], "config": TINY["model"]["config"] | config}
    pretrained = TINY | {"model": model, "sequenceLength": 128}
    base = a_job("pretrain", folder / "text", pretrained, {"data": folder / "corpus"})
    WarmRanks(base, 1).succeed()
    tuned = TINY | {"data": "pairs", "model": {"stage": "text"}, "sequenceLength": 64, "steps": 60}
    tuned |= {"optimizer": {"learningRate": 3e-3}}
    inputs = {"data": folder / "pairs", "model.stage": folder / "text"}
    WarmRanks(a_job("sft", folder / "base", tuned, inputs), 1).succeed()


def start(storage: Path, name: str, kind: str = "grpo", workers: int = 1, **settings: Any) -> WarmRanks:
    """Two ranks that learn, and one that draws."""
    how = {"attempt": settings.pop("attempt", 1), "bad": settings.pop("bad", None)}
    how |= {key: settings.pop(key) for key in ("hold", "at_call", "PATH") if key in settings}
    rollout = {"responses": 4, "maxNewTokens": 6} | settings.pop("rollout", {})
    given = SETTINGS | settings | {"rollout": rollout | ({"workers": workers} if workers else {})}
    job = a_job(kind, storage / name, given, {"data": storage / "pairs", "model.stage": storage / "base"})
    return WarmRanks(job, 2 + workers, **how, LOCAL_WORLD_SIZE="1", LOCAL_RANK="0")


def models_that_draw(ranks: WarmRanks) -> list[psutil.Process]:
    """The processes below these ranks."""
    below = psutil.Process(ranks.processes[-1].pid).children(recursive=True)
    return [each for each in below if each.name().startswith("ray::RolloutWor")]
