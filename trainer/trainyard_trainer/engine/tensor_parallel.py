"""Ranks that share layers: DeepSpeed's AutoTP, with Megatron's cuts (Shoeybi et al. 2019, arXiv 1909.08053, section 3).

Each of S ranks has a slice of every matrix between embedding and output head: heads of attention, and a part of the
feed-forward layer's inner width. All S work on the same rows; a layer's output is added up over them twice, and so is its
input's gradient. Embedding, norms and output head are whole on each, with equal gradients, for what goes through them is equal.

To all else such ranks are as any others: each counts the rows' labels and losses, so sums over all ranks are S times those of
the global batch, and means are what they would be. A checkpoint has whole parameters, by the slices that ranks write
(`state.Runs`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_
from trainyard_api.training_stages import TrainingStage

from ..errors import PermanentError, setting

_COLUMNS = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
_ROWS = ["o_proj", "down_proj"]
_OF_EACH_HEAD = ["q_norm", "k_norm"]
"""Norms that are whole on each rank, of heads that are not: their gradients are parts of a sum."""
_MODELS = ("llama", "qwen3")
_SIZES = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


def sharing_layers(stage: TrainingStage, model: Any) -> dict[str, Any]:
    """The section of DeepSpeed's configuration; PermanentError where the model can't be cut so."""
    ranks = stage.tensor_parallel
    if ranks == 1:
        return {}
    field, config = setting("tensorParallel"), model.config
    if config.model_type not in _MODELS:
        raise PermanentError(
            f"{field}: layers of {' and '.join(_MODELS)} are shared, not of {config.model_type}; leave it out"
        )
    if stage.model.lora:
        raise PermanentError(f"{field}: adapters are too small to share; leave it out, or model.lora")
    if (stage.deepspeed.get("zero_optimization") or {}).get("stage", 0) == 3:
        raise PermanentError(
            f"{field}: ZeRO 3 cuts all parameters already; use zero_optimization.stage 0, 1 or 2, or leave it out"
        )
    for name in _SIZES:
        if (size := getattr(config, name)) % ranks:
            raise PermanentError(f"{field}: {ranks} does not divide the model's {name}, {size}; use a divisor of that")
    specs = [
        {"patterns": _patterns(_COLUMNS), "partition_type": "column"},
        {"patterns": _patterns(_ROWS), "partition_type": "row"},
        {"patterns": _patterns(_OF_EACH_HEAD), "partition_type": "skip", "grad_allreduce": True},
        {"patterns": [".*"], "partition_type": "skip"},
    ]
    partition = {"use_default_specs": False, "layer_specs": specs}
    return {"tensor_parallel": {"autotp_size": ranks, "partition_config": partition, "vocab_parallel_lm_head": False}}


def _patterns(layers: Iterable[str]) -> list[str]:
    return [rf".*\.{layer}\.(weight|bias)$" for layer in layers]


def clip(parameters: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], most: float) -> float:
    """Scale gradients so that their global norm is at most `most`, and return what it was: slices count once each, what all
    ranks have counts once. A collective of those that share layers.
    """
    from deepspeed.utils import groups

    of_slices, of_wholes = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            square = parameter.grad.norm(dtype=torch.float64).cpu() ** 2
            sliced = list(parameter.shape) != list(shapes[name])
            (of_slices if sliced else of_wholes).add_(square)
    device = next(iter(parameters.values())).device
    added = of_slices.to(device)
    dist.all_reduce(added, group=groups.get_tensor_model_parallel_group())
    norm = math.sqrt(float(added) + float(of_wholes))
    if math.isfinite(norm):
        clip_grads_with_norm_(list(parameters.values()), most, torch.tensor(norm, dtype=torch.float32, device=device))
    return norm
