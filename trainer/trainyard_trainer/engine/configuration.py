"""The DeepSpeed configuration of a stage: the user's own section, and the keys that the stage's fields decide.

The optimizer is ours, torch's AdamW, whatever the ZeRO stage; the fused CPU kernels that DeepSpeed would compile on first
use are never needed. Refused is what could not be resumed exactly: bf16 without fp32 masters, loss scaling, optimizer
state on NVMe.
"""

from typing import Any

from trainyard_api.stages import PretrainStage

from ..errors import PermanentError

_NO_PRINTS = 1_000_000_000


def deepspeed_configuration(stage: PretrainStage, accumulation: int) -> dict[str, Any]:
    """What `deepspeed.initialize` gets."""
    given = stage.deepspeed
    zero = given.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise PermanentError("pretrain.deepspeed.zero_optimization: must be an object such as {stage: 2}")
    if zero.get("stage", 0) == 0 and _enabled(given, "bf16"):
        raise PermanentError(
            "pretrain.deepspeed.zero_optimization.stage: 0 with bf16 keeps no fp32 master weights, small updates are lost; "
            "use stage 1, 2 or 3"
        )
    if _enabled(given, "fp16"):
        raise PermanentError(
            "pretrain.deepspeed.fp16: loss scaling skips steps, which the schedule doesn't follow; use bf16, or leave "
            "both out for fp32"
        )
    for offload in ("offload_optimizer", "offload_param"):
        if (zero.get(offload) or {}).get("device") == "nvme":
            raise PermanentError(
                f"pretrain.deepspeed.zero_optimization.{offload}.device: nvme is not supported; use cpu"
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


def _enabled(given: dict[str, Any], section: str) -> bool:
    return bool((given.get(section) or {}).get("enabled", False))
