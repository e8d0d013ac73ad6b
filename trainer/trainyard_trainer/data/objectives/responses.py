"""The assistant's words, for decoders that are fine-tuned: next token, where only tokens of responses are labels.

A conversation is never cut: one that is longer than a row is left out, and counted. What it is told is read, and no label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import PermanentError, setting
from ..batch import IGNORED, Batch
from ..packing import BestFit, Piece
from ..shards import RESPONSES, TokenShards
from .next_token import NextToken
from .objective import Sample


class ConversationRows:
    """A split of conversations, packed whole."""

    documents_cut = 0

    def __init__(self, folder: Path, length: int) -> None:
        if not (folder / RESPONSES).is_dir():
            raise PermanentError(
                f"{setting('data')}: holds text without roles, and fine-tuning needs conversations; prepare them with "
                "prepare.sources[0].format: conversations"
            )
        self.tokens, self.responses = TokenShards(folder), TokenShards(folder / RESPONSES)
        self._lengths = np.diff(self.tokens.document_ends.astype(np.int64), prepend=0)
        fits = self._lengths <= length
        self.too_long = int((~fits).sum())
        """Conversations that are left out."""
        if not fits.any():
            raise PermanentError(
                f"{setting('sequenceLength')}: all {len(fits)} conversations are longer than {length} tokens, and none is cut; "
                f"use at least {self._lengths.min()}, better {self._lengths.max()}"
            )
        sizes = np.where(fits, self._lengths, 0)
        self._rows = BestFit(sizes, length)
        self.real = float(sizes.sum() / (length * len(self._rows)))

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> list[Piece]:
        """The conversations of a row."""
        ends = self.tokens.document_ends
        return [
            Piece(int(ends[it]) - int(self._lengths[it]), int(self._lengths[it]), it, begins=True, ends=True)
            for it in self._rows.row(number)
        ]


@dataclass(frozen=True)
class Responses:
    """In rows of `length` positions; `begin` is what the model reads before a conversation's first token."""

    length: int
    begin: int

    def open(self, folder: Path) -> ConversationRows:
        """A split, packed."""
        return ConversationRows(folder, self.length)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """As the next token's, with the labels of responses alone."""
        rows = [(each.rows, each.rows.row(each.number)) for each in samples]
        batch = NextToken(self.length, self.begin).of_pieces(
            [[(split.tokens, piece) for piece in pieces] for split, pieces in rows]
        )
        labels_BT = batch.labels.numpy()
        for row, (split, pieces) in enumerate(rows):
            at = 0
            for piece in pieces:
                learned_T = split.responses.window(piece.start, piece.length)
                labels_BT[row, at : at + piece.length][learned_T == 0] = IGNORED
                at += piece.length
        return batch
