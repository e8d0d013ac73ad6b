"""What all objectives have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..batch import Batch


class Rows(Protocol):
    """A split, packed for an objective."""

    real: float
    """Share of positions that hold a token of a document."""
    documents_cut: int
    """Documents that are longer than a row, so that their parts don't see each other."""
    too_long: int
    """Those that are left out, for they are longer than a row and can't be cut."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Sample:
    """A row to be read, and what its random numbers come from."""

    rows: Any
    """Of a kind that only the objective knows."""
    number: int
    draw: int


class Objective(Protocol):
    """From a split's folder to batches."""

    def open(self, folder: Path) -> Rows:
        """A split, packed."""

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Rows as the model reads them."""


def generator(seed: int, draw: int) -> np.random.Generator:
    """The random numbers of one row."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, draw], dtype=np.uint64)))
