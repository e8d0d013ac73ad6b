"""Train a model from scratch, or go on with one, on the documents of a corpus or of several."""

from trainyard_api.protocol import Artifact
from trainyard_api.training_stages import PretrainStage

from ..group import Group
from .training import train


def pretrain(group: Group) -> Artifact | None:
    """The artifact is rank 0's."""
    return train(group.settings(PretrainStage), group)
