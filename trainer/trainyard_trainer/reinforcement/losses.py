"""Losses of policies and values, and what keeps a policy near its reference: functions of numbers a token, nothing averaged.

`ratios` are π / π_old of a token, or of a response; log-ratios are their logarithms. (B, T) in, (B, T) out.
"""

import torch
from torch import Tensor


def clipped(ratios_BT: Tensor, advantages_BT: Tensor, low: float, high: float) -> Tensor:
    """PPO's (Schulman et al. 2017, arXiv 1707.06347, equation 7), to be minimised, with bounds 1 − low and 1 + high: these are
    equal there, and the upper one larger in DAPO (Yu et al. 2025, arXiv 2503.14476, equation 10, "clip-higher").
    """
    bounded_BT = ratios_BT.clamp(1 - low, 1 + high)
    return torch.maximum(-advantages_BT * ratios_BT, -advantages_BT * bounded_BT)


def is_clipped(ratios_BT: Tensor, advantages_BT: Tensor, low: float, high: float) -> Tensor:
    """Where the bound counts, so that the loss has no gradient."""
    return ((ratios_BT < 1 - low) & (advantages_BT < 0)) | ((ratios_BT > 1 + high) & (advantages_BT > 0))


def value_error(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, clip: float) -> Tensor:
    """Half the squared error of values, of those that have moved by more than `clip` that of the bound if it is larger (Huang
    et al. 2024, arXiv 2403.17031, detail of value clipping).
    """
    bounded_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_BT - returns_BT) ** 2, (bounded_BT - returns_BT) ** 2)


def divergence(log_ratios_BT: Tensor, estimator: str) -> Tensor:
    """Of the policy from the reference, from tokens that the policy has drawn, whose log π − log π_ref are given (Schulman
    2020, "Approximating KL divergence": k1, k2 and k3). `K1` is unbiased and may be negative, `K3` is unbiased and positive.
    """
    match estimator:
        case "K1":
            return log_ratios_BT
        case "K2":
            return 0.5 * log_ratios_BT**2
        case "K3":
            return torch.expm1(-log_ratios_BT) + log_ratios_BT
    raise ValueError(f"{estimator} is none of K1, K2, K3")


def of_sequences(log_ratios_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """GSPO's ratios (Zheng et al. 2025, arXiv 2507.18071, equations 7 and 13): each token has its response's, the geometric
    mean of its tokens' ratios, and of that the gradient of its own.
    """
    tokens_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1)
    mean_B1 = (log_ratios_BT * mask_BT).sum(1, keepdim=True) / tokens_B1
    return torch.exp(mean_B1.detach() + log_ratios_BT - log_ratios_BT.detach())


def importance(trained_BT: Tensor, rolled_out_BT: Tensor, most: float) -> Tensor:
    """What a token's loss is to be weighed by where another engine drew it than the one that trains: the ratio of its
    probabilities there and here, at most `most` (Yao et al. 2025, "truncated importance sampling"). Without gradient.
    """
    return torch.exp(trained_BT.detach() - rolled_out_BT).clamp(max=most)


def overlong_penalty(lengths: Tensor, longest: int, margin: int) -> Tensor:
    """DAPO's soft punishment (Yu et al. 2025, equation 13), to be added to rewards: 0 up to `longest` − `margin` tokens, from
    there on falling to −1 at `longest`.
    """
    return -((lengths - (longest - margin)) / margin).clamp(0, 1)
