"""Which model draws."""

import importlib.util

import pytest
import torch
from trainyard_api.rollout_stages import GrpoStage
from trainyard_trainer.data.special_tokens import SpecialTokens
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.reinforcement.rollout_engines import Setup
from trainyard_trainer.reinforcement.rollout_worker import engine_of
from transformers import LlamaConfig


@pytest.mark.skipif(bool(importlib.util.find_spec("vllm")), reason="vLLM is installed")
def test_without_vllm_a_stage_that_wants_it_says_what_to_install() -> None:
    stage = GrpoStage.model_validate(
        {
            "data": "pairs",
            "model": {"stage": "base"},
            "steps": 1,
            "sequenceLength": 128,
            "globalBatch": 2,
            "microBatch": 2,
            "rewards": [{"function": "rewards.py:any"}],
            "rollout": {"engine": "VLLM", "workers": 1},
        }
    )
    tokens = SpecialTokens(begin=0, end=0, pad=None, mask=None, sentinels=(), size=10)
    with pytest.raises(
        PermanentError,
        match=r"rollout\.engine: vLLM is not there \(No module named 'vllm'\); pip install 'trainyard\[vllm\]'",
    ):
        engine_of(stage, Setup(LlamaConfig(), tokens, torch.float32), 0, torch.device("cpu"))
