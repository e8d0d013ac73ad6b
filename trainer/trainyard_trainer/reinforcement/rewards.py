"""Those who say how good a response is, and who answers it, as a stage's settings name them."""

from collections.abc import Callable
from pathlib import Path

import torch
from trainyard_api.rollout_stages import RolloutStage
from transformers import PreTrainedModel

from ..data.fetched import fetch_file
from ..errors import setting
from ..group import Group
from .responding import Reward
from .scorers import RewardModel, load_reward_model
from .user_functions import Environment, RewardFunction


def rewards_of(
    stage: RolloutStage,
    begin: int,
    tokenizer: Path,
    group: Group,
    device: torch.device,
    note: Callable[[str], object],
) -> list[Reward]:
    """One after the other: users' functions, each in its process, and reward models, which are read. Relative files are below
    the storage root. `begin` is what models read before a conversation, `tokenizer` what they must have been trained on.
    """
    found: list[Reward] = []
    for number, each in enumerate(stage.rewards):
        if each.function is not None:
            field = setting(f"rewards[{number}].function")
            found.append(RewardFunction(_place(each.function, field, group, note), field, each.timeout_seconds))
        else:
            found.append(RewardModel(_model(number, tokenizer, group), begin, device))
    return found


def environment_of(stage: RolloutStage, group: Group, note: Callable[[str], object]) -> Environment | None:
    """In its process; None if nobody answers."""
    settings = stage.rollout.environment
    if settings is None:
        return None
    field = setting("rollout.environment.function")
    return Environment(_place(settings.function, field, group, note), field, settings.timeout_seconds)


def first_reward_model(stage: RolloutStage, tokenizer: Path, group: Group) -> PreTrainedModel | None:
    """What a critic begins as; None where no model rewards."""
    numbers = (number for number, each in enumerate(stage.rewards) if each.stage is not None)
    number = next(numbers, None)
    return None if number is None else _model(number, tokenizer, group)


def _model(number: int, tokenizer: Path, group: Group) -> PreTrainedModel:
    field = f"rewards[{number}].stage"
    return load_reward_model(group.inputs[field], tokenizer, setting(field))


def _place(given: str, field: str, group: Group, note: Callable[[str], object]) -> str:
    path, _, name = given.rpartition(":")
    if not path.endswith(".py"):
        return given
    return f"{fetch_file(path, group.job.storage_uri, field, note)}:{name}"
