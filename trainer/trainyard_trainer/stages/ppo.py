"""Learn from rewards of the model's own responses: PPO with a critic."""

from trainyard_api.protocol import Artifact
from trainyard_api.rollout_stages import PpoStage

from ..group import Group
from .learning import learn


def ppo(group: Group) -> Artifact | None:
    """The artifact is rank 0's."""
    return learn(group.settings(PpoStage), group)
