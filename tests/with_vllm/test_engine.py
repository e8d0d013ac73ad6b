"""vLLM as a model that draws, where it is installed: what it says that it has drawn is what transformers' model reads."""

from typing import Any

import pytest
import torch
from torch import Tensor
from trainyard_api.rollout_stages import GrpoStage
from trainyard_trainer.data.special_tokens import SpecialTokens
from trainyard_trainer.reinforcement.generating import Drawn
from trainyard_trainer.reinforcement.rollout_engines import RolloutEngine, Setup
from trainyard_trainer.reinforcement.weights import packed
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

pytest.importorskip("vllm")
pytestmark = pytest.mark.filterwarnings("ignore")  # what vLLM warns of is its own

VOCABULARY, END, LONGEST, TEMPERATURE = 40, 0, 6, 0.7
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "max_position_embeddings": 512,
}
"""Heads are 32 wide: vLLM has no kernel for narrower ones."""
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama with one matrix for both ends": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=32)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=2, n_positions=512, initializer_range=0.3)
    ),
}
PROMPTS = [[3], [4, 5, 6, 7, 8], [9, 2, 1] * 90]
"""The last one is longer than what vLLM keeps of prompts in one piece."""


def a_model(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return MODELS[name]().eval()


def engine_of(model: Any) -> RolloutEngine:
    from trainyard_trainer.reinforcement.vllm_engine import VllmEngine

    stage = GrpoStage.model_validate(
        {
            "data": "pairs",
            "model": {"stage": "base"},
            "steps": 1,
            "sequenceLength": 512,
            "globalBatch": 2,
            "microBatch": 2,
            "rewards": [{"function": "rewards.py:any"}],
            "rollout": {"engine": "VLLM", "workers": 1, "temperature": TEMPERATURE},
        }
    )
    tokens = SpecialTokens(begin=END, end=END, pad=None, mask=None, sentinels=(), size=VOCABULARY)
    return VllmEngine(stage, Setup(model.config, tokens, torch.float32), torch.device("cpu"))


def numbers(rows: int, seed: int = 1) -> Tensor:
    return torch.rand(rows, LONGEST, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(engine: RolloutEngine, prompts: list[list[int]], uniform_BN: Tensor) -> Drawn:
    longest = max(map(len, prompts))
    tokens = torch.tensor([[END] * (longest - len(each)) + each for each in prompts])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])
    return engine.draw(tokens, mask, uniform_BN)


def said_in(row: Tensor) -> list[int]:
    tokens = row.tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


@torch.no_grad()
def assert_read_alike(model: Any, found: Drawn, prompts: list[list[int]]) -> None:
    copies = len(found.tokens) // len(prompts)
    for row, tokens in enumerate(found.tokens):
        prompt, said = prompts[row // copies], said_in(tokens)
        logits = model(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
        read = torch.log_softmax(logits / TEMPERATURE, 1).gather(1, torch.tensor(said)[:, None])[:, 0]
        assert found.log_probabilities[row, : len(said)].tolist() == pytest.approx(read.tolist(), abs=1e-4)
        assert found.log_probabilities[row, len(said) :].abs().sum() == 0


@pytest.mark.parametrize("name", MODELS)
def test_it_draws_by_the_weights_that_it_was_given_last_whatever_it_has_read_before(name: str) -> None:
    first, second = a_model(name), a_model(name, seed=1)
    engine = engine_of(first)
    for model in first, second, first:
        engine.load(packed(model.named_parameters()))
        for seed in 1, 2:  # the second time, prompts were read before
            assert_read_alike(model, drawn(engine, PROMPTS, numbers(6, seed)), PROMPTS)


def test_more_prompts_than_are_read_at_once_are_read_one_after_the_other() -> None:
    model = a_model("llama")
    engine = engine_of(model)
    engine.load(packed(model.named_parameters()))
    prompts = [[number, *[9, 2, 1] * 90] for number in range(1, 21)]
    assert_read_alike(model, drawn(engine, prompts, numbers(20)), prompts)


def test_what_a_row_says_follows_from_its_numbers_and_ends_where_it_should() -> None:
    model = a_model("llama")
    engine = engine_of(model)
    engine.load(packed(model.named_parameters()))
    uniform_BN = numbers(64)
    found = drawn(engine, PROMPTS[:2], uniform_BN)
    assert torch.equal(found.tokens, drawn(engine, PROMPTS[:2], uniform_BN).tokens)
    assert len({tuple(said_in(row)) for row in found.tokens[:32]}) > 16
    ended = [row for row in found.tokens.tolist() if END in row[:-1]]
    assert ended
    assert all(set(row[row.index(END) :]) == {END} for row in ended)
    uniform_BN[0, 2:] = uniform_BN[1] = torch.nan
    shorter = drawn(engine, PROMPTS[:2], uniform_BN)
    assert shorter.tokens[0, :2].tolist() == found.tokens[0, :2].tolist()
    assert shorter.tokens[0, 2:].tolist() == [END] * 4
    assert shorter.log_probabilities[0, 2:].abs().sum() == shorter.log_probabilities[1].abs().sum() == 0
    assert torch.equal(shorter.tokens[2:], found.tokens[2:])
