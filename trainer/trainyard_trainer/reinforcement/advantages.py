"""How much better a response, or a token of one, is than was to be expected. P prompts, G responses to each, T tokens.

All of it is arithmetic on what is given, in its dtype and on its device; nothing here is differentiated.
"""

import torch
from torch import Tensor

DEVIATION_FLOOR = 1e-4
"""Added to a group's deviation: one whose rewards are all alike has advantages of 0, not of 0/0."""


def generalised(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, discount: float, decay: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equations 11 and 16), and returns: what values
    are to become. (B, T) each, 0 where there is no token.

    `mask_BT` is true where a response has a token; it has them one after the other, from its first. `discount` is γ, `decay` λ.
    """
    length = rewards_BT.shape[1]
    advantages_BT = torch.zeros_like(values_BT)
    following_B = torch.zeros_like(values_BT[:, 0])
    value_after_B = torch.zeros_like(following_B)
    for t in reversed(range(length)):
        error_B = rewards_BT[:, t] + discount * value_after_B - values_BT[:, t]
        here_B = mask_BT[:, t]
        following_B = torch.where(here_B, error_B + discount * decay * following_B, 0)
        value_after_B = torch.where(here_B, values_BT[:, t], 0)
        advantages_BT[:, t] = following_B
    return advantages_BT, torch.where(mask_BT, advantages_BT + values_BT, 0)


def of_group(rewards_PG: Tensor, *, by_deviation: bool = True) -> Tensor:
    """GRPO's (Shao et al. 2024, arXiv 2402.03300, section 4.1.2): a reward less its group's mean, by the group's deviation (of
    G − 1). Without that it is Dr. GRPO's (Liu et al. 2025, arXiv 2503.20783, section 3.2), which does not make questions count
    more that are almost always, or almost never, answered right.
    """
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    return centred_PG / (rewards_PG.std(1, keepdim=True) + DEVIATION_FLOOR) if by_deviation else centred_PG


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """RLOO's (Ahmadian et al. 2024, arXiv 2402.14740, equation 7): a reward less the mean of the others of its group."""
    group = rewards_PG.shape[1]
    return (rewards_PG - rewards_PG.mean(1, keepdim=True)) * group / (group - 1)


def of_batch(rewards: Tensor, mean: float, deviation: float) -> Tensor:
    """REINFORCE++'s (Hu et al. 2025, arXiv 2501.03262, section 3): a reward among all of the global batch, whose mean and
    deviation are given.
    """
    return (rewards - mean) / (deviation + DEVIATION_FLOOR)


def whitened(advantages_BT: Tensor, mask_BT: Tensor, mean: float, variance: float) -> Tensor:
    """Advantages of mean 0 and variance 1 over all tokens of the global batch, whose mean and variance are given (Huang et al.
    2024, arXiv 2403.17031, detail of advantage whitening).
    """
    return torch.where(mask_BT, (advantages_BT - mean) * (variance + 1e-8) ** -0.5, 0)
