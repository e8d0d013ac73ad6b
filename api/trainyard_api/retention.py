"""Which checkpoints go: the trainer asks after each commit, `trainyard checkpoints prune` when the user says so.

The last `keep` stay, so that a bad one never stands alone; with `keep_every` also those of every such step, for good.
"""

from collections.abc import Iterable


def prunable(steps: Iterable[int], keep: int, keep_every: int | None) -> list[int]:
    """Those of the committed steps that need not be kept, in ascending order."""
    ascending = sorted(steps)
    return [step for step in ascending[:-keep] if not keep_every or step % keep_every]
