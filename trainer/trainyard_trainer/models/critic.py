"""A critic beside a policy: it says of each token's place what rewards are to be expected from there on.

It is a part of the policy's module, so one optimizer steps both and one checkpoint holds both; its parameters' names begin with
`critic.`, and whoever takes the policy leaves them out.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .scoring import with_scores

CRITIC = "critic"


def with_critic(policy: PreTrainedModel, reward_model: PreTrainedModel | None, seed: int) -> PreTrainedModel:
    """The policy with a critic that begins as the reward model, its heads' mean (Huang et al. 2024, arXiv 2403.17031, section
    5), or else as the policy's body under a new head.
    """
    if reward_model is None:
        critic: Any = with_scores(deepcopy(policy), 1, seed)
    else:
        critic = deepcopy(reward_model)
        head = nn.Linear(critic.score.in_features, 1)
        with torch.no_grad():
            head.weight.copy_(critic.score.weight.mean(0, keepdim=True))
            head.bias.copy_(critic.score.bias.mean(0, keepdim=True))
        critic.score = head
    policy.add_module(CRITIC, critic.requires_grad_(True))
    return policy


def values(policy: Any, inputs: dict[str, Tensor], ends_N: Tensor) -> Tensor:
    """The critic's, (N,) in fp32, at these positions in 0 … B × T − 1 of rows (B, T)."""
    found_N1: Tensor = policy.get_submodule(CRITIC)(**inputs, ends=ends_N)
    return found_N1[:, 0].float()


def of_policy(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """Parameters without the critic's."""
    return {name: shape for name, shape in shapes.items() if not name.startswith(f"{CRITIC}.")}
