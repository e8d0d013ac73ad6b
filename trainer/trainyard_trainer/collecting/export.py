"""What reward and dpo read of the votes: one row a pair of responses, by the majority of those who judged it.

preferences.jsonl      {"prompt", "chosen", "rejected"}: texts; turns of a conversation as hh-rlhf writes them
conversational.jsonl   the same with lists of {"role", "content"}
hh-rlhf.jsonl          {"chosen", "rejected"}: whole transcripts
votes.jsonl            every vote ever made: ties, both bad, skips, undone and repeated ones
items.jsonl            what was compared
agreement.json         how far annotators agree; scores of the models
"""

from dataclasses import dataclass
from pathlib import Path

from .database import Database


@dataclass(frozen=True)
class Exported:
    """How many rows were written, how many pairs have none, by reason, and the files' names."""

    rows: int
    left_out: dict[str, int]
    files: tuple[str, ...]


def export(database: Database, folder: Path) -> Exported:
    """Write all of the above into `folder`."""
    raise NotImplementedError
