"""A model that seldom names the larger of two digits learns to, from a function that says whether it is right: to the same bits
after a kill. What a function can't reward is left out.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from preparing import put, run_prepare
from training import TINY, a_job, committed_steps, metric_lines, shard_digests
from trainyard_api.protocol import Job
from trainyard_trainer.artifacts import read_artifact
from warm_ranks import WarmRanks

LLAMA = {
    "type": "llama",
    "config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}
FUNCTIONS = """
def right(completions, answers, **_):
    return [float(said == wanted) for said, wanted in zip(completions, answers)]

def unsure(completions, answers, **_):
    return [None if said.startswith("1") else float(said == wanted) for said, wanted in zip(completions, answers)]

def raises(**_):
    raise RuntimeError("no idea")
"""
LAST = 60
GRPO: dict[str, Any] = {
    "data": "pairs",
    "model": {"stage": "tuned"},
    "steps": LAST,
    "sequenceLength": 64,
    "globalBatch": 16,
    "microBatch": 8,
    "rollout": {"responses": 8, "maxNewTokens": 4},
    "rewards": [{"function": "functions.py:right"}],
    "optimizer": {"learningRate": 3e-3},
    "schedule": {"warmupSteps": 2},
    "validation": {"everySteps": 20, "sequences": 16},
    "checkpoint": {"everySteps": 10},
    "deepspeed": {"zero_optimization": {"stage": 1}},
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of digits with the larger one, and a model that was taught a little."""
    folder, draw = tmp_path_factory.mktemp("storage"), random.Random(0)
    pairs = [{"prompt": f"{a} or {b}?", "completion": f"{max(a, b)}"} for a in range(10) for b in range(10)] * 4
    draw.shuffle(pairs)
    put(folder, {"pairs.jsonl": "".join(json.dumps(row) + "\n" for row in pairs), "functions.py": FUNCTIONS})
    put(
        folder / "texts",
        {f"{n}.txt": "\n".join(f"{row['prompt']} {row['completion']}" for row in pairs[n::8]) for n in range(8)},
    )
    run_prepare(folder, {"path": "texts"}, out="corpus", tokenizer={"vocabSize": 300})
    run_prepare(folder, {"path": "pairs.jsonl", "format": "conversations"}, out="pairs", tokenizer={"stage": "corpus"})
    taught = TINY | {"sequenceLength": 64, "model": LLAMA, "steps": 40, "optimizer": {"learningRate": 3e-3}}
    WarmRanks(a_job("pretrain", folder / "base", taught, {"data": folder / "corpus"}), 1).succeed()
    taught |= {"data": "pairs", "model": {"stage": "base"}, "steps": 120}
    inputs = {"data": folder / "pairs", "model.stage": folder / "base"}
    WarmRanks(a_job("sft", folder / "tuned", taught, inputs), 1).succeed()
    return folder


PPO = GRPO | {
    "rollout": {"maxNewTokens": 4},
    "globalBatch": 64,
    "microBatch": 16,
    "policy": {"epochs": 2, "miniBatches": 2, "kl": 0.02},
    "optimizer": {"learningRate": 1e-3},
}


def rewarded(storage: Path, name: str, kind: str = "grpo", **settings: Any) -> Job:
    inputs = {"data": storage / "pairs", "model.stage": storage / "tuned"}
    return a_job(kind, storage / name, (PPO if kind == "ppo" else GRPO) | settings, inputs)


def means(folder: Path, figure: str) -> dict[int, float]:
    return {line["step"]: line[figure] for line in metric_lines(folder) if figure in line}


@pytest.fixture(scope="module", params=["grpo", "ppo"])
def learned(storage: Path, request: pytest.FixtureRequest) -> Path:
    ranks = WarmRanks(rewarded(storage, request.param, request.param))
    ranks.succeed()
    return ranks.output


def test_it_learns_what_is_rewarded(learned: Path) -> None:
    reward, held_out = means(learned, "reward"), means(learned, "held_out_reward")
    before = sum(reward[step] for step in range(1, 6)) / 5
    after = sum(reward[step] for step in range(LAST - 4, LAST + 1)) / 5
    assert after > before + 0.2, (before, after, reward)
    assert held_out[LAST] > held_out[20]
    made = read_artifact(learned, learned.name)
    assert made["details"]["objective"] == "Rollouts"
    assert 1 <= means(learned, "response_tokens")[LAST] <= 4


def test_killed_it_goes_on_to_the_same_bits(storage: Path, learned: Path) -> None:
    job = rewarded(storage, f"{learned.name}-killed", learned.name)
    ranks = WarmRanks(job, hold="trainyard_trainer.stages.training:learning_rate", at_call=15)
    ranks.until_held()
    for process in ranks.processes:
        process.kill()
    ranks.wait(20)
    assert committed_steps(ranks.output)[-1] == 10
    WarmRanks(job, attempt=2).succeed()
    assert shard_digests(ranks.output, LAST) == shard_digests(learned, LAST)


def test_what_can_not_be_rewarded_is_left_out(storage: Path) -> None:
    few = {
        "steps": 2,
        "rewards": [{"function": "functions.py:unsure"}, {"function": "functions.py:right", "weight": 0.5}],
    }
    ranks = WarmRanks(rewarded(storage, "unsure", **few), 1)
    ranks.succeed()
    assert 0 <= means(ranks.output, "reward")[2] <= 1.5


def test_a_function_that_is_not_there_is_named(storage: Path) -> None:
    ranks = WarmRanks(rewarded(storage, "nowhere", rewards=[{"function": "functions.py:wrong"}]), 1)
    assert ranks.wait() == [10]
    assert "grpo.rewards[0].function: " in ranks.said()
    assert "functions.py has no function wrong" in ranks.said()
