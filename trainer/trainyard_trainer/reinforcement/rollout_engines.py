"""Models that draw, apart from those that learn: what they have in common, and transformers' own. `vllm_engine` is the other.

They are given weights, draw what `generating.draw` describes, and know nothing of rewards.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from trainyard_api.rollout_stages import RolloutStage
from transformers import PretrainedConfig

from ..data.special_tokens import SpecialTokens
from ..models.build import build_model
from ..models.kernels import use_liger
from ..models.lora import with_adapters
from .generating import Drawn, draw
from .weights import Weights, load


class Setup(NamedTuple):
    """What a model begins with, the same for all."""

    config: PretrainedConfig
    tokens: SpecialTokens
    dtype: torch.dtype


class RolloutEngine(Protocol):
    """A model that draws."""

    def load(self, weights: Weights) -> None:
        """Draw by these from now on, and by nothing that is known of others."""
        ...

    def draw(self, tokens_PT: Tensor, mask_PT: Tensor, uniform_BN: Tensor) -> Drawn:
        """Continue prompts, as `dialogues.Draw` has it."""
        ...


class TransformersEngine:
    """transformers' model and our own drawing: on any device, the same to the bit as where ranks that learn draw."""

    def __init__(self, stage: RolloutStage, setup: Setup, seed: int, device: torch.device) -> None:
        model = build_model(setup.config, seed)
        if stage.kernels == "Liger":
            use_liger(model, device)
        if stage.model.lora:
            model = with_adapters(model, stage.model.lora, seed)
        self._model = model.to(device, setup.dtype).requires_grad_(False).eval()
        self._device, self._temperature, self._end = device, stage.rollout.temperature, setup.tokens.end

    def load(self, weights: Weights) -> None:
        """Draw by these from now on."""
        load(self._model, weights)

    def draw(self, tokens_PT: Tensor, mask_PT: Tensor, uniform_BN: Tensor) -> Drawn:
        """Continue prompts, as `dialogues.Draw` has it."""
        given = [each.to(self._device) for each in (tokens_PT, mask_PT, uniform_BN)]
        return draw(self._model, *given, self._temperature, self._end)
