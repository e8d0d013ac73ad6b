"""The schedule of a mixture: shares that hold at every prefix, each part's samples once an epoch, no state anywhere."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from trainyard_trainer.data.mixture import Mixture, Schedule
from trainyard_trainer.data.order import Order

SEEDS = st.integers(0, 2**31 - 1)
WEIGHTS = st.lists(st.integers(1, 60) | st.integers(1, 1000), min_size=1, max_size=32)
PARTS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=5)
"""(weight, samples) of each part."""


def a_mixture(seed: int, parts: list[tuple[int, int]]) -> Mixture:
    weights, samples = zip(*parts, strict=True)
    return Mixture(seed, weights, samples)


@given(WEIGHTS)
def test_every_prefix_holds_each_part_to_within_one_of_its_share(weights: list[int]) -> None:
    parts = Schedule.of(weights).parts
    n = np.arange(1, len(parts) + 1)
    bound = 1 - 1 / max(2, 2 * len(weights) - 2)
    for part, weight in enumerate(weights):
        share = n * weight / sum(weights)
        assert np.abs(np.cumsum(parts == part) - share).max() <= bound + 1e-9


@given(WEIGHTS, st.integers(0, 2**40))
def test_after_each_period_every_part_has_had_its_share_exactly(weights: list[int], period: int) -> None:
    length = sum(weights) // math.gcd(*weights)
    parts, turns = Schedule.of(weights).at(np.arange(period * length, (period + 1) * length))
    for part, weight in enumerate(weights):
        own = weight * length // sum(weights)
        assert np.array_equal(turns[parts == part], np.arange(period * own, (period + 1) * own))


@given(SEEDS, PARTS, st.integers(0, 3))
def test_each_part_reads_all_its_samples_once_an_epoch(seed: int, given: list[tuple[int, int]], epoch: int) -> None:
    mixture, all_weights = a_mixture(seed, given), sum(weight for weight, _ in given)
    needed = max(all_weights * ((epoch + 1) * samples // weight + 2) for weight, samples in given)
    parts, samples = mixture.samples(0, needed)
    for part, (_, count) in enumerate(given):
        own = samples[parts == part]
        assert np.array_equal(np.sort(own[epoch * count : (epoch + 1) * count]), np.arange(count))


@given(SEEDS, PARTS, st.integers(0, 2**40), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_a_global_batch_is_the_same_for_any_world_size(
    seed: int, given: list[tuple[int, int]], step: int, world_size: int
) -> None:
    mixture, global_batch = a_mixture(seed, given), 12
    share = global_batch // world_size
    ranks = [mixture.samples(step * global_batch + rank * share, share) for rank in range(world_size)]
    whole = mixture.samples(step * global_batch, global_batch)
    for of_ranks, expected in zip(zip(*ranks, strict=True), whole, strict=True):
        assert np.array_equal(np.concatenate(of_ranks), expected)


@given(SEEDS, PARTS, st.integers(0, 500), st.integers(0, 500))
def test_resuming_at_any_position_equals_going_on(
    seed: int, given: list[tuple[int, int]], done: int, more: int
) -> None:
    parts, samples = a_mixture(seed, given).samples(0, done + more)
    resumed_parts, resumed_samples = a_mixture(seed, given).samples(done, more)
    assert np.array_equal(resumed_parts, parts[done:])
    assert np.array_equal(resumed_samples, samples[done:])


@given(SEEDS, st.integers(1, 10_000), st.integers(1, 300), st.integers(0, 2**40))
def test_a_mixture_of_one_part_is_in_the_order_of_that_part(seed: int, weight: int, size: int, first: int) -> None:
    parts, samples = Mixture(seed, [weight], [size]).samples(first, 20)
    assert not parts.any()
    assert np.array_equal(samples, Order(seed, size).samples(first, 20))
