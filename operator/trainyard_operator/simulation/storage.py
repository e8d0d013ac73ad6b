"""What attempts have committed, by the rules of `trainyard_api.checkpoint`: a newer attempt that has begun fences older ones
off, and a manifest that lands all the same is void.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from trainyard_api.checkpoint import Name, voided_by


class FencedError(Exception):
    """A newer attempt has begun."""


@dataclass
class Checkpoints:
    """Those of one stage. `on_change` is called with this after each change."""

    on_change: Callable[["Checkpoints"], None]
    resumed: dict[int, int] = field(default_factory=dict)
    """Attempt that has begun → the step from which."""
    landed: list[Name] = field(default_factory=list)
    """Manifests, in the order in which they were written."""

    @property
    def committed(self) -> list[Name]:
        """Those that count, ascending."""
        return sorted(name for name in self.landed if voided_by(name, self.resumed) is None)

    def begin(self, attempt: int) -> int:
        """Put on record where an attempt begins; the step. Raises FencedError."""
        self.refuse_older(attempt)
        newest = max(self.committed, default=Name(0, 0))
        self.resumed[attempt] = newest.step
        self.on_change(self)
        return newest.step

    def refuse_older(self, attempt: int) -> None:
        """FencedError if a newer attempt has begun: looked up before a manifest is written."""
        if max(self.resumed, default=0) > attempt:
            raise FencedError

    def land(self, name: Name) -> None:
        """A manifest is there: a moment after its writer has looked whether it may."""
        self.landed.append(name)
        self.on_change(self)
