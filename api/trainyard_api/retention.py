"""Which checkpoints go: the trainer asks after each commit, `trainyard checkpoints prune` when the user says so.

The last `keep` stay, so that a bad one never stands alone; with `keep_every` also those of every such step, for good; with
`keep_best` those with the lowest held-out loss, until better ones come.
"""

from collections.abc import Collection, Iterable, Mapping


def prunable(steps: Iterable[int], keep: int, keep_every: int | None, best: Collection[int] = ()) -> list[int]:
    """Those of the committed steps that need not be kept, in ascending order; `best` stay."""
    ascending = sorted(steps)
    return [step for step in ascending[:-keep] if not (keep_every and step % keep_every == 0) and step not in best]


def best_steps(losses: Mapping[int, float | None], keep_best: int) -> set[int]:
    """The steps with the lowest held-out losses, of those that have one; of equal ones the earlier."""
    measured = sorted((loss, step) for step, loss in losses.items() if loss is not None)
    return {step for _, step in measured[:keep_best]}
