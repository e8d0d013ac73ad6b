"""The DeepSpeed configuration of a stage: the user's own section, and the keys that the stage's fields decide.

The optimizer is ours, torch's AdamW, whatever the ZeRO stage; the fused CPU kernels that DeepSpeed would compile on first
use are never needed. Refused is what could not be resumed exactly (bf16 without fp32 masters, loss scaling, optimizer
state on NVMe, round-robin gradients, with which DeepSpeed 0.19.8 mixes up whose elements are whose), and what DeepSpeed
would ignore without a word.
"""

from typing import Any

from trainyard_api.training_stages import TrainingStage

from ..errors import PermanentError, setting

_NO_PRINTS = 1_000_000_000
_ZERO = "deepspeed.zero_optimization"
_NOT_HERE = {
    "tensor_parallel": "set tensorParallel, which sees to batches and checkpoints as well",
    "sequence_parallel_size": "set sequenceParallel, which sees to documents and batches as well",
    "activation_checkpointing": "DeepSpeed ignores it for transformers' models; set activationCheckpointing",
    "compile": "DeepCompile builds its kernels with CUDA's headers when it starts; set compile for torch.compile",
    "pipeline": "DeepSpeed's pipelines need a sequence of layers, which transformers' models are not; use "
    "zero_optimization.stage 3",
}
"""Sections that can't be, and why."""


def deepspeed_configuration(stage: TrainingStage, accumulation: int) -> dict[str, Any]:
    """What `deepspeed.initialize` gets."""
    given = stage.deepspeed
    zero = given.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise PermanentError(f"{setting(_ZERO)}: must be an object such as {{stage: 2}}")
    if zero.get("stage", 0) == 0 and _enabled(given, "bf16"):
        raise PermanentError(
            f"{setting(_ZERO)}.stage: 0 with bf16 keeps no fp32 master weights, small updates are lost; use stage 1, 2 or 3"
        )
    if _enabled(given, "fp16"):
        raise PermanentError(
            f"{setting('deepspeed.fp16')}: loss scaling skips steps, which the schedule doesn't follow; use bf16, or leave "
            "both out for fp32"
        )
    _refuse_offload(zero)
    for section, reason in _NOT_HERE.items():
        if given.get(section) not in (None, {}, 1, False):
            raise PermanentError(f"{setting(f'deepspeed.{section}')}: {reason}")
    if zero.get("round_robin_gradients") and zero.get("stage", 0) in (1, 2):
        raise PermanentError(
            f"{setting(_ZERO)}.round_robin_gradients: DeepSpeed does not tell which elements a rank then holds, so nothing "
            "could be saved; leave it out"
        )
    if zero.get("compute_grad_norm") is False:
        raise PermanentError(
            f"{setting(_ZERO)}.compute_grad_norm: numbers that go wrong are seen by the norm; leave it out"
        )
    if (given.get("bf16") or {}).get("check_grad_overflow") is False:
        raise PermanentError(
            f"{setting('deepspeed.bf16.check_grad_overflow')}: false would let gradients into the weights that are no numbers; "
            "leave it out"
        )
    return {
        "steps_per_print": _NO_PRINTS,
        "zero_force_ds_cpu_optimizer": False,
        **given,
        "train_micro_batch_size_per_gpu": stage.micro_batch,
        "gradient_accumulation_steps": accumulation,
        # Without ZeRO the engine clips by itself, for DeepSpeed would not tell the norm.
        "gradient_clipping": stage.optimizer.clip_norm if zero.get("stage", 0) else 0.0,
    }


def _refuse_offload(zero: dict[str, Any]) -> None:
    stage = zero.get("stage", 0)
    for field, stages in (("offload_optimizer", (1, 2, 3)), ("offload_param", (3,))):
        device = (zero.get(field) or {}).get("device", "none")
        if device == "nvme":
            raise PermanentError(f"{setting(_ZERO)}.{field}.device: nvme is not supported; use cpu")
        if device != "none" and stage not in stages:
            raise PermanentError(
                f"{setting(_ZERO)}.{field}: DeepSpeed ignores it with stage {stage}; use "
                f"stage {' or '.join(map(str, stages))}, or leave it out"
            )


def _enabled(given: dict[str, Any], section: str) -> bool:
    return bool((given.get(section) or {}).get("enabled", False))
