"""The order of samples: a permutation each epoch, a pure function, the same for any world size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from trainyard_trainer.data.order import Order

SEEDS = st.integers(0, 2**31 - 1)


@given(SEEDS, st.integers(1, 5000), st.integers(0, 1000))
def test_each_epoch_reads_every_sample_once(seed: int, size: int, epoch: int) -> None:
    samples = Order(seed, size).samples(epoch * size, size)
    assert np.array_equal(np.sort(samples), np.arange(size))


@given(SEEDS, st.integers(1, 300), st.integers(0, 2000), st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_a_slice_of_positions_is_the_same_however_it_is_cut(seed: int, size: int, first: int, cuts: list[int]) -> None:
    order, starts = Order(seed, size), first + np.cumsum([0, *cuts])
    parts = [order.samples(int(start), count) for start, count in zip(starts, cuts, strict=False)]
    assert np.array_equal(np.concatenate(parts), order.samples(first, sum(cuts)))


@given(SEEDS, st.integers(1, 300), st.integers(0, 100), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_a_global_batch_is_the_same_for_any_world_size(seed: int, size: int, step: int, world_size: int) -> None:
    global_batch = 12
    share = global_batch // world_size
    ranks = [Order(seed, size).samples(step * global_batch + rank * share, share) for rank in range(world_size)]
    assert np.array_equal(np.concatenate(ranks), Order(seed, size).samples(step * global_batch, global_batch))


@given(SEEDS, st.integers(1, 2**40), st.integers(0, 2**50))
def test_one_sample_is_what_the_vector_has_there(seed: int, size: int, position: int) -> None:
    sample = Order(seed, size).sample(position)
    assert 0 <= sample < size
    assert sample == Order(seed, size).samples(position, 3)[0]
