"""Why a checkpoint could not be written, in a form that goes from process to process."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PermanentError, RetryableError, from_exception
from .commit import FencedError


@dataclass(frozen=True)
class Failure:
    """What one process met."""

    text: str
    permanent: bool = False
    """Nobody but the user can change it. What isn't known to last is worth another try."""
    fenced: bool = False
    """A newer attempt has begun: this one has nothing to save any more."""

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """The failure behind an error of this process."""
        known = from_exception(error)
        return cls(str(known or error), isinstance(known, PermanentError), isinstance(error, FencedError))


def raise_any(failures: Sequence[Failure | None]) -> None:
    """Raise the first of the ranks' failures, if there is one."""
    for rank, failure in enumerate(failures):
        if failure:
            raise (PermanentError if failure.permanent else RetryableError)(told(rank, failure))


def told(rank: int, failure: Failure) -> str:
    """The failure, for the user."""
    return f"checkpoints: rank {rank}: {failure.text}"
