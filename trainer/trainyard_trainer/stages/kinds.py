"""What kinds of training do otherwise than others: what they make of the model that they begin with, and what they minimise."""

from typing import Any

import torch
from trainyard_api.rollout_stages import PpoStage, RolloutStage
from trainyard_api.training_stages import DpoStage, RewardStage, SftStage, TrainingStage
from transformers import PreTrainedModel

from ..engine.criterion import Criterion
from ..models.critic import with_critic
from ..models.dropout import leave_out_dropout
from ..models.kernels import use_liger
from ..models.lora import with_adapters
from ..models.noise import add_noise
from ..models.scoring import with_scores
from ..preferences.objective import PreferenceLoss
from ..preferences.reward import RewardLoss
from ..preferences.unpaired import UnpairedLoss
from ..reinforcement.objective import ActorCriticLoss, PolicyLoss


def as_trained(
    model: PreTrainedModel,
    stage: TrainingStage,
    seed: int,
    device: torch.device,
    reward_model: PreTrainedModel | None = None,
) -> PreTrainedModel:
    """The model with what the stage makes of it; a critic begins as the reward model."""
    if isinstance(stage, RewardStage):
        model = with_scores(model, stage.heads, seed)
    if stage.kernels == "Liger":
        use_liger(model, device)
    if stage.activation_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if isinstance(stage, SftStage) and stage.embedding_noise:
        add_noise(model, stage.embedding_noise, stage.sequence_length)
    if isinstance(stage, DpoStage | RolloutStage):
        leave_out_dropout(model)
    if isinstance(stage, PpoStage):
        model = with_critic(model, reward_model, seed)
    return with_adapters(model, stage.model.lora, seed) if stage.model.lora else model


def criterion_of(model: Any, stage: TrainingStage) -> Criterion | None:
    """What the stage minimises, of this model; None if that is its tokens' cross-entropy."""
    if isinstance(stage, DpoStage):
        kind = UnpairedLoss if stage.objective == "Unpaired" else PreferenceLoss
        return kind(model, stage.preferences)
    if isinstance(stage, RewardStage):
        return RewardLoss(stage.centring)
    if isinstance(stage, PpoStage):
        return ActorCriticLoss(model, stage)
    if isinstance(stage, RolloutStage):
        return PolicyLoss(model, stage)
    return None
