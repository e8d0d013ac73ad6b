"""Advantages against figures worked out by hand, and against loops that say the same slowly."""

import math

import pytest
import torch
from torch import Tensor
from trainyard_trainer.reinforcement import advantages

REWARDS, VALUES = torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[1.0, 2.0, 3.0]])
ALL = torch.ones(1, 3, dtype=torch.bool)
GAE = {0.0: [1.0, 1.0, 2.0], 0.95: [3.755, 2.9, 2.0], 1.0: [4.0, 3.0, 2.0]}


@pytest.mark.parametrize(("decay", "wanted"), GAE.items())
def test_generalised_advantages(decay: float, wanted: list[float]) -> None:
    got, returns = advantages.generalised(REWARDS, VALUES, ALL, discount=1.0, decay=decay)
    assert got[0].tolist() == pytest.approx(wanted, abs=1e-5)
    assert returns[0].tolist() == pytest.approx(
        [a + v for a, v in zip(wanted, VALUES[0].tolist(), strict=True)], abs=1e-5
    )


def slowly(rewards: list[float], values: list[float], discount: float, decay: float) -> list[float]:
    """The sum of equation 16, term by term."""
    errors = [
        reward + discount * (values[t + 1] if t + 1 < len(values) else 0) - values[t]
        for t, reward in enumerate(rewards)
    ]
    return [
        sum((discount * decay) ** (later - t) * errors[later] for later in range(t, len(errors)))
        for t in range(len(errors))
    ]


def test_responses_of_any_length_have_the_advantages_that_they_have_alone() -> None:
    torch.manual_seed(0)
    lengths = [1, 4, 7, 3]
    rewards, values = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    got, returns = advantages.generalised(rewards, values, mask, discount=0.9, decay=0.8)
    for row, length in enumerate(lengths):
        wanted = slowly(rewards[row, :length].tolist(), values[row, :length].tolist(), 0.9, 0.8)
        assert got[row, :length].tolist() == pytest.approx(wanted)
    assert not got[~mask].any()
    assert not returns[~mask].any()


def of_one(group: Tensor) -> list[float]:
    return [float(each) for each in group[0]]


def test_of_groups() -> None:
    group = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    assert of_one(advantages.of_group(group)) == pytest.approx([0.86588, -0.86588, -0.86588, 0.86588], abs=1e-5)
    assert of_one(advantages.of_group(group, by_deviation=False)) == pytest.approx([0.5, -0.5, -0.5, 0.5])
    assert of_one(advantages.leave_one_out(group)) == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])


def test_a_group_whose_rewards_are_alike_teaches_nothing() -> None:
    alike = torch.full((1, 4), 0.3)
    for got in (advantages.of_group(alike), advantages.leave_one_out(alike)):
        assert got.abs().max() < 1e-6


def test_each_of_a_group_is_compared_with_the_mean_of_the_others() -> None:
    torch.manual_seed(0)
    rewards = torch.randn(3, 5, dtype=torch.float64)
    got = advantages.leave_one_out(rewards)
    for prompt in range(3):
        for each in range(5):
            others = [float(rewards[prompt, other]) for other in range(5) if other != each]
            assert float(got[prompt, each]) == pytest.approx(float(rewards[prompt, each]) - sum(others) / 4)


def test_what_is_whitened_has_mean_0_and_variance_1() -> None:
    torch.manual_seed(0)
    given = 3 + 2 * torch.randn(8, 5, dtype=torch.float64)
    mask = torch.rand(8, 5) < 0.7
    known = given[mask]
    got = advantages.whitened(given, mask, float(known.mean()), float(known.var(unbiased=False)))
    assert float(got[mask].mean()) == pytest.approx(0, abs=1e-9)
    assert float(got[mask].std(unbiased=False)) == pytest.approx(1, abs=1e-6)
    assert not got[~mask].any()
    of_batch = advantages.of_batch(known, float(known.mean()), math.sqrt(float(known.var())))
    assert float(of_batch.std()) == pytest.approx(1, abs=1e-3)
