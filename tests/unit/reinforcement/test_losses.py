"""Losses of policies and values against figures worked out by hand, and against their own properties."""

import math

import pytest
import torch
from trainyard_trainer.reinforcement import losses
from trainyard_trainer.reinforcement.advantages import of_group

RATIOS, ADVANTAGES = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([1.0, -1.0, 2.0])


def test_what_gains_or_loses_by_more_than_the_bound_has_no_gradient() -> None:
    ratios = RATIOS.clone().requires_grad_()
    loss = losses.clipped(ratios, ADVANTAGES, 0.2, 0.2)
    assert float(loss.detach().mean()) == pytest.approx(-0.6333, abs=1e-4)
    loss.sum().backward()
    assert ratios.grad is not None
    assert ratios.grad.tolist() == [-1.0, 1.0, 0.0]
    assert losses.is_clipped(RATIOS, ADVANTAGES, 0.2, 0.2).tolist() == [False, False, True]


def test_a_higher_upper_bound_lets_rare_tokens_gain_more() -> None:
    assert losses.clipped(RATIOS, ADVANTAGES, 0.2, 0.28).tolist() == pytest.approx([-0.5, 1.0, -2.56])


def test_values_that_move_far_count_by_the_worse_of_both() -> None:
    value, old, wanted = torch.tensor([1.5]), torch.tensor([1.0]), torch.tensor([2.0])
    assert float(losses.value_error(value, old, wanted, clip=0.2)) == pytest.approx(0.32)
    assert float(losses.value_error(value, old, wanted, clip=10.0)) == pytest.approx(0.125)


def test_divergence() -> None:
    half = torch.tensor([0.5])
    for estimator, wanted in {"K1": 0.5, "K2": 0.125, "K3": 0.106531}.items():
        assert float(losses.divergence(half, estimator)) == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(ValueError, match="none of K1, K2, K3"):
        losses.divergence(half, "K4")


def test_in_expectation_k1_and_k3_are_the_divergence() -> None:
    torch.manual_seed(0)
    policy, reference = (
        torch.softmax(torch.randn(6, dtype=torch.float64), 0),
        torch.full((6,), 1 / 6, dtype=torch.float64),
    )
    wanted = float((policy * (policy / reference).log()).sum())
    for estimator in ("K1", "K3"):
        got = float((policy * losses.divergence((policy / reference).log(), estimator)).sum())
        assert got == pytest.approx(wanted)


def test_at_the_first_step_all_ratios_are_1_of_tokens_and_of_sequences() -> None:
    log_ratios = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    ratios = losses.of_sequences(log_ratios, mask)
    assert torch.equal(ratios, torch.ones(2, 3))
    (ratios * mask).sum().backward()
    assert log_ratios.grad is not None
    assert torch.equal(log_ratios.grad, mask.float())


def test_a_sequence_has_the_geometric_mean_of_its_tokens_ratios() -> None:
    log_ratios = torch.tensor([[0.3, -0.1, 9.0]])
    ratios = losses.of_sequences(log_ratios, torch.tensor([[True, True, False]]))
    assert ratios[0, :2].tolist() == pytest.approx([math.exp(0.1)] * 2)


def test_importance_is_bounded_and_constant() -> None:
    trained = torch.tensor([-1.0, -1.0], requires_grad=True)
    weights = losses.importance(trained, torch.tensor([-1.0, -4.0]), most=3.0)
    assert weights.tolist() == [1.0, 3.0]
    assert not weights.requires_grad


def test_the_penalty_falls_from_the_margin_to_the_longest() -> None:
    lengths = torch.tensor([10.0, 80.0, 90.0, 100.0, 120.0])
    assert losses.overlong_penalty(lengths, longest=100, margin=20).tolist() == pytest.approx([0, 0, -0.5, -1, -1])


def test_a_bandit_learns_its_best_arm() -> None:
    """Three arms, of which the rewards are known: clipped policy gradient with a group's advantages finds the best."""
    torch.manual_seed(0)
    logits, worth = torch.zeros(3, requires_grad=True), torch.tensor([0.1, 0.5, 0.9])
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        with torch.no_grad():
            old = torch.log_softmax(logits, 0)
            arms = torch.multinomial(old.exp(), 64, replacement=True)
            rewards = worth[arms] + 0.3 * torch.randn(64)
        for _ in range(2):
            ratios = torch.exp(torch.log_softmax(logits, 0)[arms] - old[arms])
            loss = losses.clipped(ratios, of_group(rewards[None])[0], 0.2, 0.2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert float(torch.softmax(logits.detach(), 0)[2]) > 0.95
