"""Next token, for decoders: each document on its own, from its begin on, in rows that documents share.

Every token of the split, ends of text included, is a label once: the first of a document after `begin`, the first of a
document's further pieces after the token before it. So a document of n tokens takes n positions, nothing is lost at borders.

Documents are told apart by position_ids alone, which begin at 0 with each piece: transformers makes the mask of it, for
scaled_dot_product_attention, and none where all rows of a batch have one piece each, so that the causal kernel runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..batch import IGNORED, Batch
from ..packing import PackedDocuments, Piece, Sizes
from ..shards import TokenShards
from .objective import Sample


class TokenRows(PackedDocuments):
    """A split in rows whose pieces take a position for each token."""

    def __init__(self, tokens: TokenShards, length: int) -> None:
        super().__init__(tokens.document_ends, length, _tokens)
        self.tokens = tokens


@dataclass(frozen=True)
class NextToken:
    """In rows of `length` positions; `begin` is what the model reads before a document's first token."""

    length: int
    begin: int

    def open(self, folder: Path) -> TokenRows:
        """A split, packed."""
        return TokenRows(TokenShards(folder), self.length)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """input_ids and position_ids, with the labels one ahead."""
        return self.of_pieces([[(each.rows.tokens, piece) for piece in each.rows.row(each.number)] for each in samples])

    def of_pieces(self, rows: Sequence[Sequence[tuple[TokenShards, Piece]]]) -> Batch:
        """The same for any pieces that fit."""
        inputs_BT = np.full((len(rows), self.length), self.begin)
        positions_BT = np.zeros_like(inputs_BT)
        labels_BT = np.full_like(inputs_BT, IGNORED)
        for row, pieces in enumerate(rows):
            at = 0
            for tokens, piece in pieces:
                place = slice(at, at + piece.length)
                inputs_BT[row, place], labels_BT[row, place] = self._pair(tokens, piece)
                positions_BT[row, place] = np.arange(piece.length)
                at += piece.length
            positions_BT[row, at:] = np.arange(self.length - at)  # padding is a document that has no labels
        inputs = {"input_ids": torch.from_numpy(inputs_BT), "position_ids": torch.from_numpy(positions_BT)}
        return Batch(inputs, torch.from_numpy(labels_BT))

    def _pair(self, tokens: TokenShards, piece: Piece) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if not piece.begins:
            window = tokens.window(piece.start - 1, piece.length + 1)
            return window[:-1], window[1:]
        labels = tokens.window(piece.start, piece.length)
        return np.concatenate([[self.begin], labels[:-1]]), labels


def _tokens(lengths: Sizes) -> Sizes:
    return lengths
