"""NEFTune: noise on embeddings while fine-tuning, against learning a small set by heart (Jain et al. 2023, algorithm 1)."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def add_noise(model: PreTrainedModel, alpha: float, sequence_length: int) -> None:
    """Have the model, while it trains, add uniform noise of ±alpha / √(T·C) to its embeddings: T is the length of a sequence,
    of which a rank may have a part, C channels.

    It is drawn from torch's stream, which checkpoints hold.
    """

    def noisy(module: nn.Module, _: Any, embedded_BTC: Tensor) -> Tensor:
        if not module.training:
            return embedded_BTC
        most = alpha / (sequence_length * embedded_BTC.shape[2]) ** 0.5
        return embedded_BTC + torch.empty_like(embedded_BTC).uniform_(-most, most)

    model.get_input_embeddings().register_forward_hook(noisy)
