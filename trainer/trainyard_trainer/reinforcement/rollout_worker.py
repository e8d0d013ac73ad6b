"""A model that draws and those who reward, apart from the ranks that learn: a Ray actor on a worker that does nothing else.

It keeps nothing that it can't be given again: each call brings what to begin with and which weights, by reference, so Ray may
start it anew and repeat a call, and what it says is the same.
"""

import torch
from trainyard_api.rollout_stages import GrpoStage, PpoStage, RolloutStage

from ..engine.processes import settle
from ..engine.step_times import StepTimes
from ..errors import begin_stage
from ..group import Group
from .responding import Asked, Responder, Rolled
from .rewards import environment_of, rewards_of
from .rollout_engines import RolloutEngine, Setup, TransformersEngine
from .vllm_engine import VllmEngine
from .weights import Weights


def settings_of(group: Group) -> RolloutStage:
    """The stage's."""
    return group.settings(GrpoStage if group.job.kind == GrpoStage.kind else PpoStage)


def engine_of(stage: RolloutStage, setup: Setup, seed: int, device: torch.device) -> RolloutEngine:
    """What the stage wants to draw with. PermanentError if that is not to be had."""
    if stage.rollout.engine == "VLLM":
        return VllmEngine(stage, setup, device)
    return TransformersEngine(stage, setup, seed, device)


class RolloutWorker:
    """One model that draws."""

    def __init__(self) -> None:
        self._responder: Responder | None = None
        self._engine: RolloutEngine
        self._version = 0

    def begin(self, setup: Setup) -> None:
        """Make the model, and start those who reward. PermanentError names what is wrong with them."""
        group = Group.from_environment()
        begin_stage(group.job.kind)
        device = settle(0)
        stage = settings_of(group)
        tokenizer = group.inputs[next(iter(stage.parts))] / "tokenizer"
        rewards = rewards_of(stage, setup.tokens.begin, tokenizer, group, device, lambda _: None)
        times = StepTimes(device)
        seed, environment = group.job.seed, environment_of(stage, group, lambda _: None)
        self._engine = engine_of(stage, setup, seed, device)
        self._responder = Responder(
            stage, setup.tokens, tokenizer, rewards, environment, seed, self._engine.draw, times
        )

    def roll_out(self, setup: Setup, version: int, weights: Weights, asked: list[Asked]) -> Rolled:
        """Responses to these prompts, by weights of a version, with what they are worth."""
        if self._responder is None:
            self.begin(setup)
        assert self._responder
        if version != self._version:
            self._engine.load(weights)
            self._version = version
        return self._responder(asked)
