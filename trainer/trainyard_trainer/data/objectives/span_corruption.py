"""Span corruption, for T5 (Raffel et al. 2020, 3.1.4): of each piece 15 % of the tokens are taken out, in spans of 3 on
average, each replaced by a sentinel; the decoder says each sentinel with what it stands for, and an end.

How many tokens and spans follows from the piece's length alone, so rows are packed by what is left; a row holds 1.1 times its
width in text. Where they lie is drawn evenly, at least a token apart. T5's own code always lets a piece begin with a token that
is kept and end with a span; here either may be first and last, but a piece's last token, most often the end of the document, is
always kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import PermanentError, setting
from ..batch import Batch
from ..packing import PackedDocuments, Sizes, largest_piece
from ..shards import TokenShards
from .encoder_decoder import Tokens, batch_of_pairs
from .objective import Sample, generator

SHARE, MEAN_SPAN = 0.15, 3


class CorruptedRows(PackedDocuments):
    """A split in rows whose pieces take what is left of them once they are corrupted."""

    def __init__(self, tokens: TokenShards, length: int) -> None:
        super().__init__(tokens.document_ends, length, left_over)
        self.tokens = tokens


@dataclass(frozen=True)
class SpanCorruption:
    """In rows of `length` encoder positions."""

    length: int
    start: int
    end: int
    sentinels: Sequence[int]
    seed: int

    def open(self, folder: Path) -> CorruptedRows:
        """A split, packed."""
        rows = CorruptedRows(TokenShards(folder), self.length)
        if (most := sentinels_needed(rows.whole)) > len(self.sentinels):
            raise PermanentError(
                f"{setting('sequenceLength')}: {self.length} needs {most} sentinels, and there are {len(self.sentinels)}; "
                "lower it"
            )
        return rows

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Encoder and decoder inputs, with segments that keep documents apart."""
        rows = []
        for sample in samples:
            random = generator(self.seed, sample.draw)
            tokens = sample.rows.tokens
            pieces = sample.rows.row(sample.number)
            rows.append([self.corrupt(tokens.window(each.start, each.length), random) for each in pieces])
        return batch_of_pairs(rows, self.length, self.start, self.start)

    def corrupt(self, tokens: Tokens, random: np.random.Generator) -> tuple[Tokens, Tokens]:
        """What the encoder reads of a piece, and what the decoder says."""
        read, said, kept = [], [], 0
        for number, (start, stop) in enumerate(_spans(len(tokens), random)):
            sentinel = self.sentinels[number]
            read += [*tokens[kept:start], sentinel]
            said += [sentinel, *tokens[start:stop]]
            kept = stop
        return np.array([*read, *tokens[kept:]]), np.array([*said, self.end])


def left_over(lengths: Sizes) -> Sizes:
    """Encoder positions of pieces of so many tokens."""
    taken, spans = _taken(lengths)
    return lengths - taken + spans


def longest_piece(length: int) -> int:
    """Tokens of the longest piece in a row of `length` encoder positions."""
    return largest_piece(length, left_over)


def sentinels_needed(length: int) -> int:
    """By a piece of so many tokens."""
    return int(_taken(np.array([length]))[1][0])


def _taken(lengths: Sizes) -> tuple[Sizes, Sizes]:
    """How many tokens are taken out, and in how many spans; the last token stays."""
    free = lengths - 1
    taken = np.minimum(np.maximum(np.rint(SHARE * free).astype(np.int64), 1), np.maximum(free - 1, 0))
    spans = np.minimum(np.maximum(np.rint(taken / MEAN_SPAN).astype(np.int64), 1), taken)
    return taken, spans


def _spans(length: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """(start, stop) of each span in a piece, in order."""
    taken, spans = (int(each[0]) for each in _taken(np.array([length])))
    if not spans:
        return []
    inside = _parts(taken, spans, random)
    between = _parts(length - 1 - taken + 2, spans + 1, random)
    between[[0, -1]] -= 1  # what is before the first and after the last may be nothing
    starts = np.cumsum(between[:-1]) + np.cumsum(inside) - inside
    return list(zip(starts.tolist(), (starts + inside).tolist(), strict=True))


def _parts(total: int, number: int, random: np.random.Generator) -> NDArray[np.int64]:
    """So many positive whole numbers with this sum, each way to do so as likely as any."""
    cuts = np.sort(random.choice(total - 1, number - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)
