"""What a stage needs that learns from rewards: who gives them, and the models that don't learn beside the one that does."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from trainyard_api.rollout_stages import RolloutStage
from transformers import PreTrainedModel

from ..data.batch import Batch
from ..engine import processes
from ..engine.batches import Batches
from ..engine.engine import Engine
from ..errors import setting
from ..group import Group
from ..models.dropout import leave_out_dropout
from ..models.origin import Origin
from ..reinforcement.generating import Drawn, draw
from ..reinforcement.learning import Learning, Reference
from ..reinforcement.objective import PolicyLoss
from ..reinforcement.rollouts import Reward, Rollouts, reward_functions
from ..reinforcement.scorers import RewardModel, load_reward_model
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
    ) -> None:
        """Start the users' functions and read the reward models."""
        tokens = begun.tokens
        self._stage, self._group, self._begun = stage, group, begun
        rewards: dict[int, Reward] = {}
        self.reward_model: PreTrainedModel | None = None
        """The first of them; a critic begins as it."""
        for number, each in enumerate(stage.rewards):
            if each.stage is not None:
                field = f"rewards[{number}].stage"
                model = load_reward_model(group.inputs[field], tokenizer, setting(field))
                self.reward_model = self.reward_model or model
                rewards[number] = RewardModel(model, tokens.begin, device)
        rewards |= reward_functions(stage, group, note)
        in_order = [rewards[number] for number in sorted(rewards)]
        width = begun.config.hidden_size
        self.objective = Rollouts(stage, tokens, tokenizer, in_order, group.job.seed, width)

    def begin(self, engine: Engine, batches: Batches) -> Learning:
        """With the engine's model of now, and from now on."""
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

        self.objective.begin(drawn, engine.times)
        reference = None
        if self._stage.policy.kl:
            model = self._begun.first()
            leave_out_dropout(model)
            reference = Reference(model, self._stage, engine)
        return Learning(self._stage, batches, engine, reference, self._group, trouble=lambda: self.objective.trouble)


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
