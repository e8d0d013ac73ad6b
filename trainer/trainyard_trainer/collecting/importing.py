"""Comparisons that were made elsewhere, taken in as votes."""

from dataclasses import dataclass
from pathlib import Path

from .database import Database


@dataclass(frozen=True)
class Imported:
    """Rows taken in, and those left out, by reason."""

    rows: int
    left_out: dict[str, int]


def import_comparisons(database: Database, path: Path) -> Imported:
    """Take the comparisons of a file in: prompt/chosen/rejected, conversational or hh-rlhf rows. Again changes nothing."""
    raise NotImplementedError
