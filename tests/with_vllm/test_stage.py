"""Stages that learn from what vLLM draws, where it is installed, also if something goes wrong there."""

import json
from pathlib import Path
from typing import Any

import pytest
from drawing_apart import HELD, LAST, a_tuned_model, models_that_draw, start
from training import metric_lines

pytest.importorskip("vllm")
pytestmark = pytest.mark.timeout(900)

LSCPU = {"PATH": "/usr/bin"}
"""What vLLM asks, on CPUs, and it is there in every Debian."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    a_tuned_model(folder, hidden_size=64, num_attention_heads=2)  # vLLM has no kernel for narrower heads
    return folder


def lines_of_steps(output: Path) -> list[dict[str, Any]]:
    return [line for line in metric_lines(output) if "mismatch" in line]


def test_each_prompt_is_learned_from_once_though_a_model_dies_and_another_is_given_broken_weights(
    storage: Path,
) -> None:
    rollout = {"engine": "VLLM", "maxMismatch": 0.5}
    ranks = start(storage, "solver", hold=HELD, at_call=8, bad={"weights": [4]}, rollout=rollout, **LSCPU)
    ranks.until_held(0, 1)
    [model] = models_that_draw(ranks)
    model.kill()
    ranks.release(0, 1)
    ranks.succeed()
    assert "grpo.rollout.maxMismatch: log-probabilities in training are" in ranks.said()
    lines = lines_of_steps(ranks.output)
    assert [line["position"] for line in lines] == [8 * step for step in range(LAST)]
    assert max(line["mismatch"] for line in lines) < 1e-4
    assert max(line["reward"] for line in lines[-3:]) > 0


def test_dialogues_are_drawn_ahead(storage: Path) -> None:
    environment = {"function": "rewards.py:once_more", "turns": 2}
    rollout = {"engine": "VLLM", "maxNewTokens": 48, "overlap": True, "environment": environment}
    ranks = start(storage, "talker", "ppo", steps=4, sequenceLength=128, rollout=rollout, policy={"kl": 0.05}, **LSCPU)
    ranks.succeed()
    lines = lines_of_steps(ranks.output)
    assert lines[0]["mismatch"] < 1e-4 < lines[1]["mismatch"]
    last = json.loads((ranks.output / "samples.jsonl").read_text().splitlines()[-1])
    assert any("Why?" in each["completion"] for each in last["best"] + last["worst"])
