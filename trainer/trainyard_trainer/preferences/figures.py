"""What is shown of pairs beside the loss, as their sums."""

import torch
from torch import Tensor

FIGURES = ("accuracy", "reward_margin", "chosen_reward", "rejected_reward")
"""The share of pairs in which what was chosen has the higher reward (a tie is half of one), by how much it is higher, and both
rewards."""


def figures(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """`FIGURES` of pairs' rewards, summed, fp64 (4,)."""
    margins_P = chosen_P - rejected_P
    right_P = (margins_P.sign() + 1) / 2
    return torch.stack((right_P, margins_P, chosen_P, rejected_P)).sum(1, dtype=torch.float64)
