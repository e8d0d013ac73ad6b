"""Sequence to sequence, for T5: read the source, say the target. Pairs come from JSONL through prepare (`targetField`).

A pair takes as much of a row as the longer of its two texts, since encoder and decoder rows are equally wide at most. A pair
that is longer than a row can't be cut without parting what belongs together: it is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import PermanentError, setting
from ..batch import Batch
from ..packing import BestFit
from ..shards import TARGETS, TokenShards
from .encoder_decoder import Tokens, batch_of_pairs
from .objective import Sample


class PairRows:
    """A split of pairs, packed."""

    documents_cut = too_long = 0

    def __init__(self, folder: Path, length: int) -> None:
        if not (folder / TARGETS).is_dir():
            raise PermanentError(
                f"{setting('objective')}: SequenceToSequence needs pairs, and the prepared text has none; name the key that "
                "holds what is to be said in prepare.sources[0].targetField"
            )
        self.sources, self.targets = TokenShards(folder), TokenShards(folder / TARGETS)
        lengths = [np.diff(each.document_ends.astype(np.int64), prepend=0) for each in (self.sources, self.targets)]
        longer = np.maximum(*lengths)
        if too_long := int((longer > length).sum()):
            raise PermanentError(
                f"{setting('sequenceLength')}: {too_long} of {len(longer)} pairs are longer than {length} tokens (sources of "
                f"up to {lengths[0].max()}, targets of up to {lengths[1].max()}), and none is cut; use at least "
                f"{longer.max()}, or leave these rows out of the data"
            )
        self._rows = BestFit(longer, length)
        self.real = float(longer.sum() / (length * len(self._rows)))

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> list[tuple[Tokens, Tokens]]:
        """The pairs of a row, each text with its end."""
        return [(self.sources.document(it), self.targets.document(it)) for it in self._rows.row(number)]


@dataclass(frozen=True)
class SequenceToSequence:
    """In rows of `length` positions."""

    length: int
    start: int

    def open(self, folder: Path) -> PairRows:
        """A split, packed."""
        return PairRows(folder, self.length)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Encoder and decoder inputs, with segments that keep pairs apart."""
        return batch_of_pairs([each.rows.row(each.number) for each in samples], self.length, self.start, self.start)
