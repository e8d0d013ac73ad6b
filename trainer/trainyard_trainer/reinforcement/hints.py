"""Signs that a policy learns to please who rewards it rather than what was meant: for people to look into, by samples.jsonl.

A reward is a proxy, and what is optimised hard finds where it is wrong (Gao et al. 2023, arXiv 2210.10760). Two ways are seen
in the responses themselves: they grow long, or say the same again and again.
"""

from collections import deque
from collections.abc import Mapping, Sequence

_STEPS = 10
"""That the first and the last means are of."""
_LONGER = 1.5
_REPEATED = 0.2
_FEW = 0.1
_RUN = 3
"""Tokens that count as said again."""


def repetition(tokens: Sequence[int]) -> float:
    """The share of a response's runs of three tokens that it has said before."""
    runs = [tuple(tokens[at : at + _RUN]) for at in range(len(tokens) - _RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


class Hints:
    """Of one attempt's steps."""

    def __init__(self) -> None:
        self._first: list[Mapping[str, float]] = []
        self._last: deque[Mapping[str, float]] = deque(maxlen=_STEPS)

    def step(self, figures: Mapping[str, float]) -> None:
        """Take note of `reward`, `response_tokens`, `repetition` and `informative`, means over a step's responses."""
        if len(self._first) < _STEPS:
            self._first.append(figures)
        else:
            self._last.append(figures)

    def said(self) -> list[str]:
        """What there is to look into by now."""
        if len(self._last) < _STEPS:
            return []

        def mean(steps: Sequence[Mapping[str, float]] | deque[Mapping[str, float]], figure: str) -> float:
            return sum(each[figure] for each in steps) / len(steps)

        before, now = self._first, self._last
        found = []
        longer = mean(now, "response_tokens") / max(1e-9, mean(before, "response_tokens"))
        if longer >= _LONGER and mean(now, "reward") > mean(before, "reward"):
            found.append(
                f"responses are {longer:.1f} times as long as at first, and have more reward: see whether it is length that is "
                "rewarded; rollout.truncatedReward, or policy.average: Longest and policy.overlongMargin of grpo, hold it down"
            )
        repeated = mean(now, "repetition")
        if repeated >= _REPEATED and repeated >= 2 * mean(before, "repetition"):
            found.append(
                f"{repeated:.0%} of what responses say they have said before: see whether that is rewarded; a higher policy.kl "
                "holds the policy to what it was"
            )
        if (informative := mean(now, "informative")) <= _FEW:
            found.append(
                f"{1 - informative:.0%} of responses have the reward of all others to their prompt, and teach nothing: use "
                "prompts that are neither too easy nor too hard, more rollout.responses, or policy.maxBatches"
            )
        return found
