"""Learn from rewards of the model's own responses: GRPO and its kin."""

from trainyard_api.protocol import Artifact
from trainyard_api.rollout_stages import GrpoStage

from ..group import Group
from .learning import learn


def grpo(group: Group) -> Artifact | None:
    """The artifact is rank 0's."""
    return learn(group.settings(GrpoStage), group)
