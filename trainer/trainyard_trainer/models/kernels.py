"""Liger's Triton kernels in the place of transformers' own layers (Hsu et al. 2024, arXiv 2410.10989). Its cross-entropy is
left out: ours never has whole logits either, knows the labels that count, and runs on CPUs as well. No GPU has run this yet.
"""

import torch
from transformers import PreTrainedModel

from ..errors import PermanentError, setting


def use_liger(model: PreTrainedModel, device: torch.device) -> None:
    """Replace the layers of a model that Liger has kernels for."""
    if device.type != "cuda":
        raise PermanentError(
            f"{setting('kernels')}: Liger's are Triton programs for GPUs, and this rank trains on {device.type}; use Torch"
        )
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError:
        raise PermanentError(f"{setting('kernels')}: Liger is not installed; pip install 'trainyard[liger]'") from None
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
