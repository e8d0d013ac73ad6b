"""What grpo and ppo do: learn from rewards of what is drawn by the ranks that learn, or by workers of their own."""

from trainyard_api.protocol import Artifact
from trainyard_api.rollout_stages import RolloutStage

from ..group import Group
from ..reinforcement.apart import Apart
from ..reinforcement.fleet import draw_for_others, learners_of
from .training import train


def learn(stage: RolloutStage, group: Group) -> Artifact | None:
    """The artifact is rank 0's."""
    if not stage.rollout.workers:
        return train(stage, group)
    learners = learners_of(group, stage.rollout.workers)
    if group.rank >= learners.world_size:
        draw_for_others(group)
        return None
    with Apart(stage, learners) as apart:
        return train(stage, learners, apart)
