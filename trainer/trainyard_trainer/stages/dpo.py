"""Learn from preferences without a reward model: DPO and its kin, against the model that the stage begins with."""

from trainyard_api.protocol import Artifact
from trainyard_api.training_stages import DpoStage

from ..group import Group
from .training import train


def dpo(group: Group) -> Artifact | None:
    """The artifact is rank 0's."""
    return train(group.settings(DpoStage), group)
