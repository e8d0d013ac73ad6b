"""Learn from rewards of the model's own responses: PPO with a critic."""

from trainyard_api.protocol import Artifact
from trainyard_api.rollout_stages import PpoStage

from ..group import Group
from .training import train


def ppo(group: Group) -> Artifact | None:
    """The artifact is rank 0's."""
    return train(group.settings(PpoStage), group)
