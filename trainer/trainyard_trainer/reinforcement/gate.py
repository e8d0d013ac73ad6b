"""Whether what was drawn may be learned from: only if training finds the probabilities that it was drawn with.

They differ a little where two programs compute them, and more where weights are stale or broken, which nothing else shows:
rewards look as always, and the policy is led astray by tokens that it would not have said.
"""

import sys
from collections.abc import Callable

from ..errors import RetryableError, setting


class Gate:
    """Of one attempt. All ranks are told the same, and say the same."""

    def __init__(self, most: float, draw_anew: Callable[[], object] | None) -> None:
        """`most` nats are allowed in the mean. `draw_anew` has weights given again to those that draw, where others do."""
        self._most, self._draw_anew = most, draw_anew
        self._refused = False

    def refuses(self, mismatch: float) -> bool:
        """Whether no step may be made with a batch, whose log-probabilities in training are so many nats from those that its
        tokens were drawn with: it is drawn anew. RetryableError if that was of no use, or can be of none.
        """
        if not mismatch > self._most:  # what is no number is judged elsewhere (`engine.numerics`)
            self._refused = False
            return False
        what = (
            f"{setting('rollout.maxMismatch')}: log-probabilities in training are {mismatch:.3g} nats from those that tokens "
            f"were drawn with, and {self._most:g} is allowed"
        )
        if self._refused or not self._draw_anew:
            raise RetryableError(f"{what}; see that those that draw have the same weights and kernels, or raise it")
        self._refused = True
        self._draw_anew()
        print(f"{what}; weights are given anew to those that draw, and the batch is drawn again", file=sys.stderr)
        return True
