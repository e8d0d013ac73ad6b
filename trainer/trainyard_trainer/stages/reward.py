"""Train a reward model: a decoder with a head in the place of its words, which scores responses as people prefer them."""

from trainyard_api.protocol import Artifact
from trainyard_api.training_stages import RewardStage

from ..group import Group
from .training import train


def reward(group: Group) -> Artifact | None:
    """The artifact is rank 0's."""
    return train(group.settings(RewardStage), group)
