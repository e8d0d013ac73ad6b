"""Losses of preferences, each a function of a few numbers a response: (B,) in, (B,) out, nothing averaged.

`margins_B` are by how much more the policy prefers the chosen response to the rejected one than the reference does:
(log π(chosen) − log ref(chosen)) − (log π(rejected) − log ref(rejected)), of whole responses or of a token in the mean.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu


def sigmoid(margins_B: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """DPO (Rafailov et al. 2023, equation 7); with smoothing its conservative form, as if that share of labels were flipped
    (Mitchell 2023, "A note on DPO with noisy preferences", equation 3).
    """
    return -(1 - smoothing) * logsigmoid(beta * margins_B) - smoothing * logsigmoid(-beta * margins_B)


def robust(margins_B: Tensor, beta: float, smoothing: float) -> Tensor:
    """DPO that is right in expectation if that share of labels, below a half, is flipped (Chowdhury et al. 2024, eq. 12)."""
    wrong = smoothing * logsigmoid(-beta * margins_B)
    return (wrong - (1 - smoothing) * logsigmoid(beta * margins_B)) / (1 - 2 * smoothing)


def hinge(margins_B: Tensor, beta: float) -> Tensor:
    """SLiC's, with the reference's margin (Zhao et al. 2023, equation 1; Liu et al. 2024, "RSO", table 1)."""
    return relu(1 - beta * margins_B)


def ipo(margins_B: Tensor, beta: float) -> Tensor:
    """IPO (Azar et al. 2023, equation 17): the margin is to be 1 / 2β, and not more."""
    return (margins_B - 1 / (2 * beta)) ** 2


def kto(ratios_B: Tensor, desirable_B: Tensor, reference_point: Tensor, beta: float, weights_B: Tensor) -> Tensor:
    """KTO, of single responses that are good or not (Ethayarajh et al. 2024, equation 8).

    `ratios_B` are log π − log ref of each, `reference_point` the estimate of the policy's divergence from the reference, from
    responses to other prompts, at least 0 and without gradient; `weights_B` are λ of good and of bad ones.
    """
    towards_B = torch.where(desirable_B, ratios_B - reference_point, reference_point - ratios_B)
    return weights_B * (1 - torch.sigmoid(beta * towards_B))


def bradley_terry(
    chosen_B: Tensor, rejected_B: Tensor, margins_B: Tensor | float = 0.0, centring: float = 0.0
) -> Tensor:
    """Of a reward model's scores (Ouyang et al. 2022, equation 1), with the margins of graded preferences (Touvron et al. 2023,
    equation 2), and a pull of the scores' sum to 0 (Eisenstein et al. 2023, equation 2).
    """
    return -logsigmoid(chosen_B - rejected_B - margins_B) + centring * (chosen_B + rejected_B) ** 2
