"""Losses of preferences against figures worked out by hand, and against the published formulas' own properties."""

import math

import pytest
import torch
from trainyard_trainer.preferences import losses

TIE = torch.zeros(1)
AHEAD = torch.tensor([1.5])


def value(losses_B: torch.Tensor) -> float:
    return float(losses_B[0])


def test_where_policy_and_reference_agree_dpo_is_ln_2() -> None:
    assert value(losses.sigmoid(TIE, beta=0.1)) == pytest.approx(math.log(2))
    assert value(losses.sigmoid(TIE, beta=0.1, smoothing=0.3)) == pytest.approx(math.log(2))
    assert value(losses.robust(TIE, beta=0.1, smoothing=0.3)) == pytest.approx(math.log(2))


CASES = {
    "sigmoid": (losses.sigmoid(AHEAD, beta=0.1), 0.620957),
    "sigmoid, a tenth flipped": (losses.sigmoid(AHEAD, beta=0.1, smoothing=0.1), 0.635957),
    "robust to a tenth flipped": (losses.robust(AHEAD, beta=0.1, smoothing=0.1), 0.602207),
    "hinge": (losses.hinge(AHEAD, beta=0.1), 0.85),
    "hinge, far enough ahead": (losses.hinge(AHEAD, beta=1.0), 0.0),
    "ipo": (losses.ipo(AHEAD, beta=0.1), 12.25),
    "ipo, at what it wants": (losses.ipo(torch.tensor([5.0]), beta=0.1), 0.0),
    "a tie of scores": (losses.bradley_terry(TIE, TIE), math.log(2)),
    "a score ahead": (losses.bradley_terry(AHEAD, TIE), 0.201413),
    "a score ahead by its margin": (losses.bradley_terry(AHEAD, TIE, margins_B=AHEAD), math.log(2)),
    "a tie of scores far from 0": (losses.bradley_terry(AHEAD, AHEAD, centring=0.01), math.log(2) + 0.09),
}


@pytest.mark.parametrize(("got", "wanted"), CASES.values(), ids=CASES.keys())
def test_figures(got: torch.Tensor, wanted: float) -> None:
    assert value(got) == pytest.approx(wanted, abs=1e-6)


def test_robust_losses_of_flipped_labels_are_those_of_right_ones_in_expectation() -> None:
    """Chowdhury et al. 2024, lemma 3.1."""
    margins_B, share = torch.linspace(-3, 3, 13, dtype=torch.float64), 0.2
    noisy = (1 - share) * losses.robust(margins_B, 0.7, share) + share * losses.robust(-margins_B, 0.7, share)
    torch.testing.assert_close(noisy, losses.sigmoid(margins_B, 0.7))


def test_kto_values_gains_and_losses_about_the_reference_point() -> None:
    ratios, good = torch.tensor([1.0, 1.0]), torch.tensor([True, False])
    got = losses.kto(ratios, good, torch.tensor(0.5), beta=0.1, weights_B=torch.tensor([1.0, 2.0]))
    assert got.tolist() == pytest.approx([1 - 1 / (1 + math.exp(-0.05)), 2 * (1 - 1 / (1 + math.exp(0.05)))])
