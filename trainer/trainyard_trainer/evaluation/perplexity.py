"""How well a decoder predicts a whole split: every token once, each document on its own, in sliding windows.

Windows of T tokens move on by T / 2, and of each but a document's first only the later half counts: no token but those at the
start of its document is predicted from fewer than T / 2 tokens. It costs up to two forwards a token; disjoint windows would
cost one and overstate the loss by what the model can't see at each window's start. Ends of text are predicted and counted like
all tokens. Short documents share rows, as in training.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from ..data.batch import IGNORED, Batch
from ..data.objectives.next_token import NextToken
from ..data.packing import BestFit, Piece
from ..data.shards import TokenShards


class SlidingWindows:
    """The rows that the windows over a split make up, by number."""

    def __init__(self, tokens: TokenShards, length: int, begin: int) -> None:
        self.tokens, self.length, self.stride = tokens, length, length // 2
        self._objective = NextToken(length, begin)
        ends = tokens.document_ends.astype(np.int64)
        lengths = np.diff(ends, prepend=0)
        windows = 1 + np.maximum(0, -(-(lengths - length) // self.stride))
        self._documents = np.repeat(np.arange(len(ends)), windows)
        """By window."""
        turns = np.arange(len(self._documents)) - np.repeat(np.cumsum(windows) - windows, windows)
        self._offsets = turns * self.stride
        self._lengths = np.minimum(length, lengths[self._documents] - self._offsets)
        self._begins = (ends - lengths)[self._documents]
        self._rows = BestFit(self._lengths, length)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, numbers: range) -> Batch:
        """The rows of these numbers; where a token doesn't count, it is no label."""
        rows = [self._rows.row(number) for number in numbers]
        batch = self._objective.of_pieces([[(self.tokens, self._piece(window)) for window in row] for row in rows])
        for labels_T, row in zip(batch.labels, rows, strict=True):
            at = 0
            for window in row:
                if self._offsets[window]:
                    labels_T[at : at + self.length - self.stride] = IGNORED
                at += int(self._lengths[window])
        return batch

    def _piece(self, window: int) -> Piece:
        offset, length = int(self._offsets[window]), int(self._lengths[window])
        return Piece(int(self._begins[window]) + offset, length, int(self._documents[window]), offset == 0, ends=False)


class Measured(Protocol):
    """Rows to measure on, by number."""

    def __len__(self) -> int: ...

    def batch(self, numbers: range) -> Batch:
        """The rows of these numbers."""


@torch.no_grad()
def losses(
    model: PreTrainedModel, rows: Measured, mine: range, micro_batch: int, device: torch.device
) -> Iterator[tuple[float, int]]:
    """(nats, labels) for each batch of the rows `mine`."""
    for first in range(0, len(mine), micro_batch):
        batch = rows.batch(mine[first : first + micro_batch]).to(device)
        logits_BTV = model(**batch.inputs, use_cache=False).logits
        losses_N = cross_entropy(
            logits_BTV.float().flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        yield losses_N.double().sum().item(), batch.num_labels
