"""vLLM as the model that draws (Kwon et al. 2023, arXiv 2309.06180): continuous batching, a paged cache, kernels for GPUs.

It runs within the process of the Ray actor that it draws for, and listens on the loopback address alone. Weights come by Ray
and go in by vLLM's own interface for weights that a trainer sends (`vllm_weights`). Each response is drawn with a seed of its
own, the first of its uniform numbers; but what else is in a batch moves vLLM's log-probabilities in the last digits, so a
response that is drawn again may be another one. That it is a true one is seen at the gate (`gate`).
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trainyard_api.rollout_stages import RolloutStage

from ..errors import PermanentError, setting
from ..models.families import family_of
from .generating import Drawn
from .rollout_engines import Setup
from .weights import Weights, tensors_of

_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # it ends with this process
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else models on one machine share a core
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
_OF_FREE_MEMORY = 0.85
"""Of what is free on a GPU that models which reward may share; they need some to work."""
_CACHE_BYTES_ON_CPU = 2**30
_TOKENS_AT_ONCE_ON_CPU = 4096


class VllmEngine:
    """One model."""

    def __init__(self, stage: RolloutStage, setup: Setup, device: torch.device) -> None:
        """PermanentError if vLLM is not installed, or refuses the model."""
        os.environ.update(_SETTINGS)
        try:
            import vllm
        except ImportError as error:
            raise PermanentError(
                f"{setting('rollout.engine')}: vLLM is not there ({error}); pip install 'trainyard[vllm]', or use Transformers"
            ) from None
        from .vllm_weights import BACKEND, register

        register()
        self._sampling, self._prompt = vllm.SamplingParams, vllm.TokensPrompt
        self._temperature, self._end = stage.rollout.temperature, setup.tokens.end
        self._folder = tempfile.TemporaryDirectory(prefix="trainyard-vllm-")
        _, model_class = family_of(setup.config).classes()
        stored = setup.config.to_dict() | {"architectures": [model_class.__name__]}
        Path(self._folder.name, "config.json").write_text(json.dumps(stored))
        how = _on_gpu(device) if device.type == "cuda" else _on_cpu(stage)
        try:
            self._llm = vllm.LLM(
                self._folder.name,
                skip_tokenizer_init=True,
                generation_config="vllm",
                load_format="dummy",
                weight_transfer_config={"backend": BACKEND},
                dtype=setup.dtype,
                max_model_len=stage.sequence_length,
                logprobs_mode="processed_logprobs",
                enable_prefix_caching=True,
                distributed_executor_backend="uni",
                **how,
            )
        except ValueError as error:
            raise PermanentError(
                f"{setting('rollout.engine')}: vLLM refuses it: {' '.join(str(error).split())}"
            ) from None

    def load(self, weights: Weights) -> None:
        """Draw by these from now on. What is kept of prompts was read by others, and is forgotten."""
        given = [*tensors_of(weights)]
        self._llm.collective_rpc("start_weight_update")
        self._llm.collective_rpc("update_weights", args=({"weights": given},))
        self._llm.collective_rpc("finish_weight_update")
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM keeps what was read by other weights")

    def draw(self, tokens_PT: Tensor, mask_PT: Tensor, uniform_BN: Tensor) -> Drawn:
        """Continue prompts, as `dialogues.Draw` has it, each row with the seed that its first number is."""
        copies = len(uniform_BN) // len(tokens_PT)
        prompts = [tokens[mask.bool()].tolist() for tokens, mask in zip(tokens_PT, mask_PT, strict=True)]
        most_B = (~uniform_BN.isnan()).sum(1).tolist()
        seed_B = uniform_BN[:, 0].double().contiguous().view(torch.int64).tolist()
        wanted = [row for row, most in enumerate(most_B) if most]
        outputs = self._llm.generate(
            [self._prompt(prompt_token_ids=prompts[row // copies]) for row in wanted],
            [self._drawing(most_B[row], seed_B[row]) for row in wanted],
            use_tqdm=False,
        )
        tokens_BN = torch.full(uniform_BN.shape, self._end)
        log_probabilities_BN = torch.zeros(uniform_BN.shape)
        for row, output in zip(wanted, outputs, strict=True):
            [said] = output.outputs
            tokens_BN[row, : len(said.token_ids)] = torch.tensor(said.token_ids)
            found = [of[token].logprob for of, token in zip(said.logprobs, said.token_ids, strict=True)]
            log_probabilities_BN[row, : len(found)] = torch.tensor(found)
        return Drawn(tokens_BN, log_probabilities_BN)

    def _drawing(self, most: int, seed: int) -> Any:
        """How one response is drawn, of so many tokens at most."""
        return self._sampling(
            temperature=self._temperature,
            seed=seed,
            max_tokens=most,
            stop_token_ids=[self._end],
            ignore_eos=True,  # the end is told above, and nothing else is one
            logprobs=0,
            detokenize=False,
        )


def _on_gpu(device: torch.device) -> dict[str, Any]:
    """Settings there."""
    free, total = torch.cuda.mem_get_info(device)
    return {"gpu_memory_utilization": _OF_FREE_MEMORY * free / total}


def _on_cpu(stage: RolloutStage) -> dict[str, Any]:
    """Settings there. Nothing is compiled: that takes longer than all that is drawn, where there is a compiler."""
    torch._dynamo.config.disable = True
    return {
        "enforce_eager": True,
        "kv_cache_memory_bytes": _CACHE_BYTES_ON_CPU,
        "enable_chunked_prefill": False,  # after part of a prompt it turns a generator back, which none on a CPU can
        "max_num_batched_tokens": max(_TOKENS_AT_ONCE_ON_CPU, stage.sequence_length),
    }
