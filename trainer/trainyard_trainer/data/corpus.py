"""Which documents are kept, and on which side of the split each falls.

A document's side follows from its own bytes alone: the upper half of its 128-bit xxHash3, read as a fraction, is below
heldOutFraction or it isn't. So the same document is on the same side in every run, whatever else is in the corpus and
in whatever order, and more data later never moves a held-out document into training. Exact duplicates count once:
they would all fall on the same side, but weigh more there.

The corpus is read three times (survey, sample for the tokenizer, tokens) rather than kept: reading and hashing runs at
125 MB/s where tokenising runs at 2, and memory stays at one document and about 100 bytes for each document's hash.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import xxhash

from .sources import Document

Split = Literal["train", "heldOut"]
FOLDERS: dict[Split, str] = {"train": "train", "heldOut": "held-out"}
"""Where each split lies in the stage's folder."""
REASONS = ("empty", "duplicate")
"""Why any document may be dropped; conversations have reasons of their own."""
SAMPLE_BYTES = 256 * 2**20
"""Text to train the tokenizer on, at most, give or take a few pieces: beyond it merges hardly change, memory grows."""
_PIECE = 1 << 16
"""Characters of a piece of the sample: documents may be larger than the whole sample."""


@dataclass
class Survey:
    """What one reading of the corpus has met so far. Always: documents = Σ kept + Σ dropped."""

    files: int = 0
    documents: int = 0
    repaired: int = 0
    """Kept documents in which bytes that are no UTF-8 were replaced with U+FFFD."""
    kept: Counter[Split] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    num_bytes: Counter[Split] = field(default_factory=Counter)
    """UTF-8 bytes of the kept documents."""
    fingerprint: int = 0
    """Sum of the kept documents' hashes: another reading of the same files has the same."""
    lowest: float = 1.0
    highest: float = 0.0
    """Ends of the range of the kept documents' places on the scale that heldOutFraction cuts."""
    file: str = ""
    """The file met last."""

    def counts(self) -> dict[str, Any]:
        """What became of the documents, for the artifact."""
        assert self.documents == self.kept.total() + self.dropped.total()
        return {
            "files": self.files,
            "documents": self.documents,
            "kept": dict(self.kept),
            "dropped": dict.fromkeys(REASONS, 0) | dict(sorted(self.dropped.items())),
            "repaired": self.repaired,
        }


@dataclass(frozen=True)
class Kept:
    """A document that is used, once."""

    text: str
    num_bytes: int
    split: Split
    target: str | None = None


def keep(documents: Iterator[Document], held_out_fraction: float, survey: Survey) -> Iterator[Kept]:
    """The documents that are neither empty nor seen before, each with its side; `survey` counts along."""
    seen: set[int] = set()
    for document in documents:
        survey.documents += 1
        survey.files += document.file != survey.file
        survey.file = document.file
        if document.unusable:
            survey.dropped[document.unusable] += 1
            continue
        if not document.text.strip():
            survey.dropped["empty"] += 1
            continue
        raw = document.text.encode()
        target = b"" if document.target is None else b"\0" + document.target.encode()
        digest = xxhash.xxh3_128_intdigest(raw + target)
        if digest in seen:
            survey.dropped["duplicate"] += 1
            continue
        seen.add(digest)

        place = (digest >> 64) / 2**64
        split: Split = "heldOut" if place < held_out_fraction else "train"
        survey.kept[split] += 1
        survey.num_bytes[split] += len(raw)
        survey.repaired += document.repaired
        survey.fingerprint = (survey.fingerprint + digest) % 2**128
        survey.lowest, survey.highest = min(survey.lowest, place), max(survey.highest, place)
        yield Kept(document.text, len(raw), split, document.target)


def sample(documents: Iterator[Kept], survey: Survey) -> Iterator[str]:
    """Pieces of the training split for the tokenizer: all of it up to SAMPLE_BYTES, else a share chosen by hash."""
    share = SAMPLE_BYTES / survey.num_bytes["train"]
    for document in documents:
        for text in (document.text, document.target or "") if document.split == "train" else ():
            for start in range(0, len(text), _PIECE):
                piece = text[start : start + _PIECE]
                if xxhash.xxh3_64_intdigest(piece.encode(), seed=1) < share * 2**64:
                    yield piece
