"""Fine-tune a model on conversations: the loss is that of the assistant's words alone.

Conversations are packed whole, several in a row that don't see each other; one that is longer than a row is left out and
counted, for half of one teaches to break off.
"""

from trainyard_api.protocol import Artifact
from trainyard_api.training_stages import SftStage

from ..group import Group
from .training import train


def sft(group: Group) -> Artifact | None:
    """The artifact is rank 0's."""
    return train(group.settings(SftStage), group)
