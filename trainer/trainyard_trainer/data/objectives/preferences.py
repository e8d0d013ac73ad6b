"""Pairs of responses of which one is preferred, for decoders: next token, where responses' tokens are labels, and each belongs
to one response of one pair.

Both responses of a pair lie in one row, each after its prompt, and see nothing of each other; several pairs share a row. A pair
that is longer than a row is left out, and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import PermanentError, setting
from ..batch import IGNORED, Batch
from ..packing import BestFit, Piece
from ..shards import DESIRABLE, MARGINS, REJECTED, RESPONSES, TokenShards
from .next_token import NextToken
from .objective import Sample

NOBODY = -1
"""The response of a position that is in none."""


@dataclass(frozen=True)
class Pairs(Batch):
    """Rows of P pairs: response 2p is the one that was chosen, 2p + 1 the other one. A label is a pair."""

    rows_of_pairs: Tensor
    """int64 (P,): the row that each pair lies in."""

    @property
    def num_labels(self) -> int:
        """Pairs."""
        return len(self.rows_of_pairs)

    def labels_of_rows(self) -> Tensor:
        """Pairs, by row."""
        return torch.bincount(self.rows_of_pairs, minlength=len(self))

    def by_row(self, values_P: Tensor) -> Tensor:
        """The sum of its pairs' values, for each row, (B, 1)."""
        none_B = torch.zeros(len(self), dtype=values_P.dtype, device=values_P.device)
        return none_B.index_add(0, self.rows_of_pairs, values_P)[:, None]

    @staticmethod
    def rows_of(pairs: Sequence[Sequence[int]]) -> Tensor:
        """`rows_of_pairs`, of the pairs of each row."""
        return torch.repeat_interleave(torch.tensor([len(each) for each in pairs]))


@dataclass(frozen=True)
class PairBatch(Pairs):
    """Of which responses' tokens are labels."""

    responses: Tensor
    """int64 (B, T): the response that each label is of, NOBODY where there is none."""
    reference: Tensor
    """float (2P,): what the reference's log-probabilities of each response's tokens sum up to."""


class PairRows:
    """A split of pairs, packed whole."""

    documents_cut = 0

    def __init__(self, folder: Path, length: int, more: int = 0, *, unpaired: bool = False) -> None:
        """In rows of `length` positions; a response takes a position for each token, and `more`. `unpaired`: the split is one
        of single responses, and the other one of each pair answers another prompt.
        """
        desirable = folder / REJECTED / DESIRABLE
        if not (folder / REJECTED).is_dir() or desirable.exists() != unpaired:
            wanted, format = (
                ("responses with a label", "unpaired") if unpaired else ("pairs of responses", "preferences")
            )
            raise PermanentError(
                f"{setting('data')}: holds no {wanted}; prepare them with prepare.sources[0].format: {format}"
                + (
                    ""
                    if unpaired
                    else ", or learn from what it holds with dpo's preferences.loss: KTO" * desirable.exists()
                )
            )
        self.sides = [TokenShards(folder), TokenShards(folder / REJECTED)]
        self.responses = [TokenShards(folder / RESPONSES), TokenShards(folder / REJECTED / RESPONSES)]
        self.reference = np.zeros((self.sides[0].num_documents, 2), dtype=np.float32)
        """The reference's log-probability of each pair's responses, chosen and rejected; 0 until it is known."""
        self._lengths = [np.diff(side.document_ends.astype(np.int64), prepend=0) for side in self.sides]
        margins = folder / REJECTED / MARGINS
        self.margins: NDArray[np.float32] = (
            np.load(margins, allow_pickle=False) if margins.exists() else np.zeros(len(self.reference), np.float32)
        )
        """By how much what was chosen is better, of each pair."""
        self.desirable: NDArray[np.bool_] = (
            np.load(desirable, allow_pickle=False) if unpaired else np.ones(len(self.reference), bool)
        )
        """Whether the first of both is good."""
        both = sum(self._lengths) + 2 * more
        fits = both <= length
        self.too_long = int((~fits).sum())
        if not fits.any():
            raise PermanentError(
                f"{setting('sequenceLength')}: all {len(fits)} pairs are longer than {length} positions, prompts and both "
                f"responses, and none is cut; use at least {both.min()}, better {both.max()}"
            )
        sizes = np.where(fits, both, 0)
        self._rows = BestFit(sizes, length)
        self.real = float(sizes.sum() / (length * len(self._rows)))

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> list[int]:
        """The pairs of a row."""
        return self._rows.row(number)

    def pieces(self, pair: int) -> list[tuple[TokenShards, Piece]]:
        """Both responses of a pair with their prompt, the chosen one first."""
        found = []
        for side, lengths in zip(self.sides, self._lengths, strict=True):
            length = int(lengths[pair])
            found.append((side, Piece(int(side.document_ends[pair]) - length, length, pair, begins=True, ends=True)))
        return found

    def learned(self, pair: int) -> list[NDArray[np.int64]]:
        """For each token of both, 1 if it is of the response: of what the assistant says last, where both differ."""
        return [_last_run(side.document(pair)) for side in self.responses]


def _last_run(learned_T: NDArray[np.int64]) -> NDArray[np.int64]:
    """Only the ones after the last zero."""
    zeros = np.flatnonzero(learned_T == 0)
    return (np.arange(len(learned_T)) > (zeros[-1] if len(zeros) else -1)).astype(np.int64)


@dataclass(frozen=True)
class Preferences:
    """In rows of `length` positions; `begin` is what the model reads before a prompt's first token."""

    length: int
    begin: int

    def open(self, folder: Path) -> PairRows:
        """A split, packed."""
        return PairRows(folder, self.length)

    def batch(self, samples: Sequence[Sample]) -> PairBatch:
        """As the next token's, with the labels of responses alone, and whose each is."""
        rows: list[tuple[PairRows, list[int]]] = [(each.rows, each.rows.row(each.number)) for each in samples]
        pieces = [[piece for pair in pairs for piece in split.pieces(pair)] for split, pairs in rows]
        batch = NextToken(self.length, self.begin).of_pieces(pieces)
        labels_BT = batch.labels.numpy()
        responses_BT = np.full_like(labels_BT, NOBODY)
        response = 0
        for row, (split, pairs) in enumerate(rows):
            at = 0
            for learned_T in (each for pair in pairs for each in split.learned(pair)):
                place = slice(at, at + len(learned_T))
                labels_BT[row, place][learned_T == 0] = IGNORED
                responses_BT[row, place][learned_T == 1] = response
                at, response = at + len(learned_T), response + 1
        reference = np.concatenate([split.reference[pairs].ravel() for split, pairs in rows])
        return PairBatch(
            batch.inputs,
            batch.labels,
            Pairs.rows_of([pairs for _, pairs in rows]),
            torch.from_numpy(responses_BT),
            torch.from_numpy(reference),
        )
