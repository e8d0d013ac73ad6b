"""Pairs of responses of which one is preferred, for reward models: each is read to its last token, and scored there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..batch import IGNORED
from .objective import Sample
from .preferences import PairRows, Pairs


@dataclass(frozen=True)
class ScoredPairs(Pairs):
    """Rows of P pairs: response 2p is the one that was chosen, 2p + 1 the other one. A label is a pair."""

    ends: Tensor
    """int64 (2P,): where each response's last token lies, in the B × T positions."""
    margins: Tensor
    """float (P,): by how much what was chosen is better, 0 where nobody said."""


@dataclass(frozen=True)
class Rewards:
    """In rows of `length` positions; `begin` is what the model reads before a prompt's first token."""

    length: int
    begin: int

    def open(self, folder: Path) -> PairRows:
        """A split, packed. A response takes a position more than it has tokens, for all are read."""
        return PairRows(folder, self.length, more=1)

    def batch(self, samples: Sequence[Sample]) -> ScoredPairs:
        """input_ids and position_ids, without labels."""
        rows: list[tuple[PairRows, list[int]]] = [(each.rows, each.rows.row(each.number)) for each in samples]
        inputs_BT = np.full((len(rows), self.length), self.begin)
        positions_BT = np.zeros_like(inputs_BT)
        ends = []
        for row, (split, pairs) in enumerate(rows):
            at = 0
            for tokens, piece in (each for pair in pairs for each in split.pieces(pair)):
                last = at + piece.length
                inputs_BT[row, at + 1 : last + 1] = tokens.window(piece.start, piece.length)
                positions_BT[row, at : last + 1] = np.arange(piece.length + 1)
                ends.append(row * self.length + last)
                at = last + 1
            positions_BT[row, at:] = np.arange(self.length - at)
        return ScoredPairs(
            {"input_ids": torch.from_numpy(inputs_BT), "position_ids": torch.from_numpy(positions_BT)},
            torch.full(inputs_BT.shape, IGNORED),
            Pairs.rows_of([pairs for _, pairs in rows]),
            torch.tensor(ends),
            torch.from_numpy(np.concatenate([split.margins[pairs] for split, pairs in rows])),
        )
