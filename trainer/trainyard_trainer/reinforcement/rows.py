"""Responses as a batch: what the model reads of them, and what is known of each.

Responses to one prompt share it in one row where that is less work: each sees the prompt and itself, so the model says the same
of every token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..data.batch import IGNORED, PADDING, Batch

T = TypeVar("T")


@dataclass(frozen=True)
class RolloutBatch(Batch):
    """A row of labels is what the model says in a response, B = P · G of them, at most T tokens. A label is a response that
    counts: one that all could reward. The model reads other rows, a response after its prompt or a prompt and all responses to
    it, and in these what it has heard.
    """

    read: Tensor
    """int64, in the shape of the rows that the model reads: the labels in the same order, IGNORED where none is."""
    counts: Tensor
    """bool (P, G)."""
    rewards: Tensor
    """float (P, G): 0 where a response does not count."""
    truncated: Tensor
    """bool (P, G): whether it was cut off at the most tokens that it may have."""
    rolled_out: Tensor
    """float (B, T): log-probabilities of labels, as they were drawn; 0 where there is none. So have all that follow, which
    `Learning` fills in.
    """
    old: Tensor
    """Log-probabilities by the policy that has drawn them, as training works them out."""
    reference: Tensor
    """By the model that the stage begins with."""
    advantages: Tensor
    values: Tensor
    """The critic's, before the step."""
    returns: Tensor
    """What values are to become."""

    @property
    def num_labels(self) -> int:
        """Responses that count."""
        return int(self.counts.sum())

    def labels_of_rows(self) -> Tensor:
        """Responses that count, by prompt."""
        return self.counts.sum(1)

    @property
    def counted(self) -> Tensor:
        """bool (B, T): tokens of responses that count."""
        return (self.labels != IGNORED) & self.counts.flatten()[:, None]

    @property
    def is_read(self) -> Tensor:
        """bool, in the shape of the rows that the model reads: where a label lies."""
        return self.read != IGNORED

    def as_read(self) -> Batch:
        """What the model reads, and its labels."""
        return Batch(self.inputs, self.read)

    def by_response(self, found_N: Tensor) -> Tensor:
        """What was found for each label, one after the other, (B, T); 0 where none is."""
        none_BT = torch.zeros(self.labels.shape, dtype=found_N.dtype, device=found_N.device)
        return none_BT.masked_scatter(self.labels != IGNORED, found_N)


class Response(NamedTuple):
    """One that was drawn."""

    prompt: list[int]
    tokens: list[int]
    """The end among them, unless it was cut off before."""
    log_probabilities: list[float]
    """As many; 0 of what was heard."""
    truncated: bool
    heard: frozenset[int] = frozenset()
    """Which of the tokens an environment has said in between. These are read, and not learned."""

    @property
    def labels(self) -> list[int]:
        """Tokens that are learned; IGNORED in the place of others."""
        return [IGNORED if at in self.heard else token for at, token in enumerate(self.tokens)]

    def own(self, values: Sequence[T]) -> list[T]:
        """Those of tokens that the model has said."""
        return [each for at, each in enumerate(values) if at not in self.heard]


def batch_of(responses: Sequence[Response], rewards_PG: Tensor, begin: int, end: int, width: int) -> RolloutBatch:
    """Groups of responses, one after the other, whose rewards are not a number where they don't count. `begin` is what the
    model reads before a prompt, `end` what it says after a response, `width` its own.
    """
    labels_BT = padded([each.own(each.tokens) for each in responses], IGNORED)
    rolled_out_BT = padded([each.own(each.log_probabilities) for each in responses], 0.0)
    unknown_BT = torch.zeros_like(rolled_out_BT)
    inputs, read = read_rows(responses, rewards_PG.shape[1], begin, end, width)
    return RolloutBatch(
        inputs,
        labels_BT,
        read,
        counts=~rewards_PG.isnan(),
        rewards=rewards_PG.nan_to_num(),
        truncated=torch.tensor([each.truncated for each in responses]).view_as(rewards_PG),
        rolled_out=rolled_out_BT,
        old=rolled_out_BT,
        reference=rolled_out_BT,
        advantages=unknown_BT,
        values=unknown_BT,
        returns=unknown_BT,
    )


def read_rows(
    responses: Sequence[Response], group: int, begin: int, end: int, width: int
) -> tuple[dict[str, Tensor], Tensor]:
    """What the model reads, and the labels there."""
    groups = [responses[start : start + group] for start in range(0, len(responses), group)]
    if not worth_sharing([(len(each[0].prompt), [len(it.tokens) for it in each]) for each in groups], width):
        groups = [[each] for each in responses]
    tokens, positions, labels, segments = [], [], [], []
    for said in groups:
        prompt = [begin, *said[0].prompt]
        before = len(prompt) - 1  # the last token says what comes next, which is another for each response
        parts = [[prompt[-1], *each.tokens[:-1]] for each in said]
        tokens.append([*prompt[:-1], *chain(*parts)])
        positions.append([*range(before), *(before + at for part in parts for at in range(len(part)))])
        labels.append([IGNORED] * before + [*chain(*(each.labels for each in said))])
        segments.append([_PROMPT] * before + [number for number, part in enumerate(parts) for _ in part])
    inputs = {"input_ids": padded(tokens, end)}
    if len(groups) == len(responses):
        length = inputs["input_ids"].shape[1]
        inputs["position_ids"] = torch.arange(length).expand(len(groups), length).contiguous()
    else:
        segments_PT = padded(segments, PADDING)
        seen_PTT = segments_PT[:, None, :] == segments_PT[:, :, None]
        seen_PTT |= segments_PT[:, None, :] == _PROMPT
        inputs |= {"position_ids": padded(positions, 0), "attention_mask": seen_PTT.tril()[:, None]}
    return inputs, padded(labels, IGNORED)


_PROMPT = -2
"""The segment of a shared prompt; responses count from 0."""


def worth_sharing(groups: Sequence[tuple[int, Sequence[int]]], width: int) -> bool:
    """Whether responses that share their prompt cost less, for (tokens of the prompt, tokens of each response): of a layer,
    24 · width² FLOPs for each position, and 4 · width for each pair of positions in a row, seen or not. Rows are padded.
    """

    def cost(rows: Sequence[int]) -> int:
        positions = len(rows) * max(rows)
        return positions * (24 * width**2 + 4 * width * max(rows))

    together = [prompt + sum(said) for prompt, said in groups]
    apart = [prompt + tokens for prompt, said in groups for tokens in said]
    return cost(together) < cost(apart)


def padded(rows: Sequence[Sequence[float]], value: float) -> Tensor:
    """Rows, each followed by as many of the value as the longest has more tokens."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
