"""What a stage has that learns from rewards: who draws and who rewards, and the models that don't learn beside the one that
does.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from trainyard_api.rollout_stages import PpoStage, RolloutStage
from transformers import PreTrainedModel

from ..data.batch import Batch
from ..engine import processes
from ..engine.batches import Batches, HeldOut
from ..engine.engine import Engine
from ..group import Group
from ..models.dropout import leave_out_dropout
from ..models.origin import Origin
from ..reinforcement.apart import Apart
from ..reinforcement.generating import Drawn, draw
from ..reinforcement.learning import Learning, Reference
from ..reinforcement.objective import PolicyLoss
from ..reinforcement.responding import Responder, Reward
from ..reinforcement.rewards import environment_of, first_reward_model, rewards_of
from ..reinforcement.rollout_engines import Setup
from ..reinforcement.rollouts import Rollouts
from ..reinforcement.scorers import RewardModel
from ..reinforcement.user_functions import Environment
from ..scratch import Note


class Rewarding:
    """Of one stage."""

    def __init__(
        self,
        stage: RolloutStage,
        begun: Origin,
        tokenizer: Path,
        group: Group,
        device: torch.device,
        note: Note,
        apart: Apart | None,
    ) -> None:
        """Start those who reward and answer here, unless others do."""
        self._stage, self._group, self._begun, self._tokenizer, self._apart = stage, group, begun, tokenizer, apart
        self._rewards: list[Reward] = []
        self._environment: Environment | None = None
        self.reward_model: PreTrainedModel | None = None
        """The first of them; a critic begins as it."""
        if not apart:
            self._rewards = rewards_of(stage, begun.tokens.begin, tokenizer, group, device, note)
            self._environment = environment_of(stage, group, note)
            models = [each.model for each in self._rewards if isinstance(each, RewardModel)]
            self.reward_model = next(iter(models), None)
        elif isinstance(stage, PpoStage):
            self.reward_model = first_reward_model(stage, tokenizer, group)
        self.objective = Rollouts(stage, begun.tokens, begun.config.hidden_size)

    def begin(self, engine: Engine, batches: Batches, held_out: HeldOut, carried: dict[str, Tensor]) -> Learning:
        """With the engine's model of now, and from now on. `carried` is what a checkpoint had of it."""
        reference = None
        if self._stage.policy.kl:
            model = self._begun.first()
            leave_out_dropout(model)
            reference = Reference(model, self._stage, engine)
        learning = Learning(self._stage, batches, self.objective, engine, reference, self._group, self._apart)
        if learning.kl_control:
            learning.kl_control.restore(carried)
        if self._apart:
            setup = Setup(self._begun.config, self._begun.tokens, engine.dtype)
            self._apart.begin(engine, batches, self.objective, setup, carried)
            held_out.before = self._apart.fetch_held_out
        else:
            self.objective.begin(self._responder(engine))
        carrying = [part.tensors for part in (learning.kl_control, self._apart) if part]
        engine.carried = lambda: {name: each for tensors in carrying for name, each in tensors().items()}
        return learning

    def _responder(self, engine: Engine) -> Responder:
        """The model that learns draws as well."""
        criterion = engine.criterion
        assert isinstance(criterion, PolicyLoss)

        def all_ended(here: bool) -> bool:
            """With ZeRO 3 every forward pass is a collective."""
            return here if engine.zero_stage < 3 else processes.add_up(not here) == [0]

        def drawn(tokens_PT: Tensor, mask_PT: Tensor, uniform_BN: Tensor) -> Drawn:
            given = [each.to(engine.device) for each in (tokens_PT, mask_PT, uniform_BN)]
            temperature = self._stage.rollout.temperature
            with criterion.writing():
                return engine.with_module(
                    lambda module: draw(module, *given, temperature, self._begun.tokens.end, all_ended)
                )

        tokens, seed = self._begun.tokens, self._group.job.seed
        return Responder(
            self._stage,
            tokens,
            self._tokenizer,
            self._rewards,
            self._environment,
            seed,
            drawn,
            engine.times,
            all_ended,
        )


def more_updates(
    engine: Engine, updates: Iterator[list[Batch]], sums: list[float], num_labels: int
) -> tuple[list[float], int]:
    """The other updates of a step, after the first, of which the criterion has shown `sums` of so many labels: what it shows of
    all. A collective.
    """
    for micro_batches in updates:
        mine = engine.gradients(micro_batches)
        loss, *shown = processes.add_up(mine, *engine.figures)
        engine.update_again(loss)
        sums = [before + more for before, more in zip(sums, shown, strict=True)]
        num_labels += engine.num_labels
    return sums, num_labels
