"""Model FLOPs utilisation: FLOPs that the model takes for the tokens of a second ÷ (ranks × peak of a rank's device).

FLOPs: 6·N + 12·L·H·Q·T a token (`trainyard_api.architecture`), those of activations that are computed again not counted. Peak:
the maker's for bf16 or fp32 (`trainyard_api.hardware`), or `telemetry.peakFlops`. Processors have no such figure on a data
sheet, and one that is measured beside other work would make the share look better than it is: on a CPU there is no MFU without
the setting, and neither on a GPU that the table doesn't know.
"""

import resource
import sys

import torch
from trainyard_api.architecture import architecture
from trainyard_api.hardware import of_device
from trainyard_api.memory import layout_of
from trainyard_api.training_stages import TrainingStage
from transformers import PretrainedConfig


def flops_per_second_at_most(stage: TrainingStage, device: torch.device) -> float | None:
    """Of this rank's device; None where that isn't known."""
    if stage.telemetry.peak_flops:
        return stage.telemetry.peak_flops
    known = of_device(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return known.peak(bf16=layout_of(stage, 1, on_gpu=True).bf16) if known else None


def utilisation_a_token(
    stage: TrainingStage, config: PretrainedConfig, device: torch.device, ranks: int
) -> float | None:
    """MFU at one token a second over all ranks; None where the peak or the model's FLOPs aren't known."""
    peak = flops_per_second_at_most(stage, device)
    model = architecture(config.model_type, config.to_dict())
    return model.flops_per_token(stage.sequence_length) / (ranks * peak) if model and peak else None


def peak_memory_bytes(device: torch.device) -> int:
    """That this rank has had at most: allocated on its GPU, or else resident, the process's own 0.5 GB included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
