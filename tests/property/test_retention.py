"""Which checkpoints go, for any steps and settings."""

from hypothesis import given
from hypothesis import strategies as st
from trainyard_api.retention import prunable

STEPS = st.sets(st.integers(1, 300), max_size=40).map(sorted)
KEEP = st.integers(1, 10)
KEEP_EVERY = st.none() | st.integers(1, 60)


@given(STEPS, KEEP, KEEP_EVERY)
def test_what_goes_is_neither_among_the_last_nor_kept_for_good(steps: list[int], keep: int, every: int | None) -> None:
    gone = prunable(steps, keep, every)
    stays = [step for step in steps if step not in gone]
    assert gone == sorted(set(steps) - set(stays))
    assert stays[-keep:] == steps[-keep:]
    assert all(every and step % every == 0 for step in stays[:-keep])
    assert not [step for step in gone if every and step % every == 0]


@given(STEPS, KEEP, KEEP_EVERY)
def test_pruning_at_each_commit_leaves_what_pruning_at_the_end_leaves(
    steps: list[int], keep: int, every: int | None
) -> None:
    kept: list[int] = []
    for step in steps:
        kept.append(step)
        kept = [each for each in kept if each not in prunable(kept, keep, every)]
    assert kept == [step for step in steps if step not in prunable(steps, keep, every)]
