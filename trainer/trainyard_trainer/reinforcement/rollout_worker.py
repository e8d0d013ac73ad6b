"""A model that draws and those who reward, apart from the ranks that learn: a Ray actor on a worker that does nothing else.

It keeps nothing that it can't be given again: each call brings what to begin with and which weights, by reference, so Ray may
start it anew and repeat a call, and what it says is the same.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from trainyard_api.rollout_stages import GrpoStage, PpoStage, RolloutStage
from transformers import PretrainedConfig

from ..data.special_tokens import SpecialTokens
from ..engine.processes import settle
from ..engine.step_times import StepTimes
from ..errors import begin_stage
from ..group import Group
from ..models.build import build_model
from ..models.kernels import use_liger
from ..models.lora import with_adapters
from .generating import Drawn, draw
from .responding import Asked, Responder, Rolled
from .rewards import environment_of, rewards_of
from .weights import Weights, load


class Setup(NamedTuple):
    """What one begins with, the same for all."""

    config: PretrainedConfig
    tokens: SpecialTokens
    dtype: torch.dtype


def settings_of(group: Group) -> RolloutStage:
    """The stage's."""
    return group.settings(GrpoStage if group.job.kind == GrpoStage.kind else PpoStage)


class RolloutWorker:
    """One model that draws."""

    def __init__(self) -> None:
        self._responder: Responder | None = None
        self._model: Any = None
        self._version = 0

    def begin(self, setup: Setup) -> None:
        """Make the model, and start those who reward. PermanentError names what is wrong with them."""
        group = Group.from_environment()
        begin_stage(group.job.kind)
        device = settle(0)
        stage = settings_of(group)
        model = build_model(setup.config, group.job.seed)
        if stage.kernels == "Liger":
            use_liger(model, device)
        if stage.model.lora:
            model = with_adapters(model, stage.model.lora, group.job.seed)
        self._model = model.to(device, setup.dtype).requires_grad_(False).eval()

        def drawn(tokens_PT: Tensor, mask_PT: Tensor, uniform_BN: Tensor) -> Drawn:
            given = [each.to(device) for each in (tokens_PT, mask_PT, uniform_BN)]
            return draw(self._model, *given, stage.rollout.temperature, setup.tokens.end)

        tokenizer = group.inputs[next(iter(stage.parts))] / "tokenizer"
        rewards = rewards_of(stage, setup.tokens.begin, tokenizer, group, device, lambda _: None)
        times = StepTimes(device)
        seed, environment = group.job.seed, environment_of(stage, group, lambda _: None)
        self._responder = Responder(stage, setup.tokens, tokenizer, rewards, environment, seed, drawn, times)

    def roll_out(self, setup: Setup, version: int, weights: Weights, asked: list[Asked]) -> Rolled:
        """Responses to these prompts, by weights of a version, with what they are worth."""
        if self._responder is None:
            self.begin(setup)
        assert self._responder
        if version != self._version:
            load(self._model, weights)
            self._version = version
        return self._responder(asked)
