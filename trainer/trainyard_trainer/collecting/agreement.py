"""How far people agree with each other and with themselves."""

from typing import Any

from .database import Database


def report(database: Database) -> dict[str, Any]:
    """What agreement.json holds: agreement with intervals, each annotator's figures and flags, scores of the models."""
    raise NotImplementedError
