"""Masked language modelling, for encoders (Devlin et al. 2019, A.1): of a row's tokens 15 % are to be told, of which 80 % are
masked, 10 % are some other token and 10 % stay.

The share is exact to within half a token, by row; what becomes of each is drawn by itself. Each piece of a document begins with
`begin`, which is never masked, nor is a document's end: so a piece of n tokens takes n + 1 positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..batch import IGNORED, PADDING, Batch
from ..packing import PackedDocuments, Sizes
from ..shards import TokenShards
from .objective import Sample, generator

SHARE, MASKED, RANDOM = 0.15, 0.8, 0.1


class BegunRows(PackedDocuments):
    """A split in rows whose pieces take a position for each token and one for their begin."""

    def __init__(self, tokens: TokenShards, length: int) -> None:
        super().__init__(tokens.document_ends, length, _with_begin)
        self.tokens = tokens


@dataclass(frozen=True)
class MaskedLM:
    """In rows of `length` positions."""

    length: int
    begin: int
    end: int
    mask: int
    vocab_size: int
    """Tokens below it stand in for others, but for begin, end and mask."""
    seed: int

    def open(self, folder: Path) -> BegunRows:
        """A split, packed."""
        return BegunRows(TokenShards(folder), self.length)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """input_ids, position_ids and, where documents share rows, segment_ids."""
        shape = len(samples), self.length
        inputs_BT, labels_BT = np.full(shape, self.end), np.full(shape, IGNORED)
        positions_BT, segments_BT = np.zeros(shape, dtype=np.int64), np.full(shape, PADDING)
        for row, sample in enumerate(samples):
            at = 0
            for segment, piece in enumerate(sample.rows.row(sample.number)):
                stop = at + piece.length + 1
                inputs_BT[row, at] = self.begin
                inputs_BT[row, at + 1 : stop] = sample.rows.tokens.window(piece.start, piece.length)
                positions_BT[row, at:stop] = np.arange(piece.length + 1)
                segments_BT[row, at:stop] = segment
                at = stop
            self._hide(inputs_BT[row, :at], labels_BT[row, :at], sample.draw)
        inputs = {"input_ids": torch.from_numpy(inputs_BT), "position_ids": torch.from_numpy(positions_BT)}
        segments = torch.from_numpy(segments_BT)
        if segments.any():
            inputs["segment_ids"] = segments
        return Batch(inputs, torch.from_numpy(labels_BT))

    def _hide(self, inputs_T: NDArray[np.int64], labels_T: NDArray[np.int64], draw: int) -> None:
        """Choose what is to be told, put it into the labels, and hide it."""
        random = generator(self.seed, draw)
        choices = np.flatnonzero(~np.isin(inputs_T, (self.begin, self.end, self.mask)))
        many = max(1, round(SHARE * len(choices))) if len(choices) else 0
        told = np.sort(random.choice(choices, many, replace=False))
        labels_T[told] = inputs_T[told]
        fate, others = random.random(many), self._others[random.integers(len(self._others), size=many)]
        changed = np.where(fate < MASKED, self.mask, np.where(fate < MASKED + RANDOM, others, inputs_T[told]))
        inputs_T[told] = changed

    @cached_property
    def _others(self) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(self.vocab_size), (self.begin, self.end, self.mask))


def _with_begin(lengths: Sizes) -> Sizes:
    return lengths + 1
