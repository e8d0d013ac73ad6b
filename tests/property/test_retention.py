"""Which checkpoints go, for any steps, held-out losses and settings."""

from hypothesis import given
from hypothesis import strategies as st
from trainyard_api.retention import best_steps, prunable

LOSSES = st.dictionaries(st.integers(1, 300), st.none() | st.floats(0, 4, width=16), max_size=40).map(
    lambda losses: dict(sorted(losses.items()))
)
KEEP = st.integers(1, 10)
KEEP_EVERY = st.none() | st.integers(1, 60)
KEEP_BEST = st.integers(0, 10)


@given(LOSSES, KEEP, KEEP_EVERY, KEEP_BEST)
def test_what_goes_is_neither_among_the_last_nor_kept_for_good_nor_among_the_best(
    losses: dict[int, float | None], keep: int, every: int | None, keep_best: int
) -> None:
    steps, best = list(losses), best_steps(losses, keep_best)
    gone = prunable(steps, keep, every, best)
    stays = [step for step in steps if step not in gone]
    assert gone == sorted(set(steps) - set(stays))
    assert stays[-keep:] == steps[-keep:]
    assert all((every and step % every == 0) or step in best for step in stays[:-keep])
    assert not [step for step in gone if every and step % every == 0]
    assert best <= set(stays)


@given(LOSSES, KEEP_BEST)
def test_no_loss_that_was_measured_is_below_those_of_the_best(losses: dict[int, float | None], count: int) -> None:
    measured = {step: loss for step, loss in losses.items() if loss is not None}
    best = best_steps(losses, count)
    assert len(best) == min(count, len(measured))
    assert all(measured[step] <= loss for step in best for other, loss in measured.items() if other not in best)


@given(LOSSES, KEEP, KEEP_EVERY, KEEP_BEST)
def test_pruning_at_each_commit_leaves_what_pruning_at_the_end_leaves(
    losses: dict[int, float | None], keep: int, every: int | None, keep_best: int
) -> None:
    kept: dict[int, float | None] = {}
    for step, loss in losses.items():
        kept[step] = loss
        gone = prunable(kept, keep, every, best_steps(kept, keep_best))
        kept = {each: value for each, value in kept.items() if each not in gone}
    gone = prunable(losses, keep, every, best_steps(losses, keep_best))
    assert list(kept) == [step for step in losses if step not in gone]
