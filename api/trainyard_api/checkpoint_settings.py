"""What a user may say of checkpoints: when to save, and what to keep."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from .model import Mistake, Model, Rule
from .quantity import Quantity

DEFAULT_SAVE_STEPS = 100
LONGEST_INTERVAL = 10_000_000
RANK_SECONDS_TO_FAILURE = 8_000 * 3_600
"""Before a run's first failure: Meta saw one in 7.9 h at 1,024 GPUs (Kokolis et al. 2024, arXiv 2410.21680)."""
AUTO = "^auto$"
"""The pattern of a number that may also be chosen for the user."""


def _seconds_or_auto(given: object) -> object:
    if given == "auto" or (type(given) is int and 1 <= given <= LONGEST_INTERVAL):
        return given
    raise PydanticCustomError("interval", "give whole seconds, 1 to 10,000,000, or auto")


SecondsOrAuto = Annotated[
    int | Literal["auto"],
    PlainValidator(_seconds_or_auto),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "pattern": AUTO,
            "maxLength": 20,
            "minimum": 1,
            "maximum": LONGEST_INTERVAL,
        }
    ),
]
"""Seconds, or `auto`: they are measured and chosen."""


def _never_saved(it: "CheckpointSettings") -> list[Mistake]:
    every, kept = it.steps_interval, it.keep_every
    if not kept:
        return []
    if not every:
        return [("keepEvery", "counts steps, but everySeconds alone decides when to save; give everySteps as well")]
    if kept % every == 0:
        return []
    text = (
        f"{kept} is not a multiple of everySteps {every}, so nothing is saved then; use {(kept // every + 1) * every}"
    )
    return [("keepEvery", text)]


class CheckpointSettings(Model):
    """When to save, and how much of it to keep. Training goes on while a checkpoint is written."""

    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Steps from one checkpoint to the next; 100 if everySeconds isn't given either. The last step is always saved."""
    every_seconds: SecondsOrAuto | None = None
    """Seconds from one checkpoint to the next; with everySteps, whichever comes first.

    `auto` chooses them by what saving costs and how often the run fails, up to an hour: docs/stages.md.
    """
    max_age_seconds: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Fail when the newest checkpoint is older than this and saving fails, or one save takes longer than this; without it,
    training always goes on."""
    keep: Annotated[int, Field(ge=2, le=1000)] = 2
    """Checkpoints to keep; at least two, so that a bad one never stands alone."""
    keep_every: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Keep those of every so many steps for good, beside the last ones; a multiple of everySteps."""
    keep_best: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Keep so many with the lowest held-out loss too, of those whose step was validated."""
    memory_budget: Quantity | None = None
    """Of a worker's memory, for snapshots that outlive its ranks; a quarter of it where left out, "0" for none.

    It holds the last two of the worker's own ranks, and those of the worker before it. What does not fit is left out.
    """

    rules: ClassVar = (
        Rule(
            cel=f"!has(self.keepEvery) || (has(self.everySteps) ? self.keepEvery % self.everySteps == 0 : "
            f"!has(self.everySeconds) && self.keepEvery % {DEFAULT_SAVE_STEPS} == 0)",
            message="keepEvery must be a multiple of everySteps: at other steps nothing is saved",
            mistakes=_never_saved,
            field="keepEvery",
            cel_message="has(self.everySteps) ? '%d is not a multiple of everySteps %d, so nothing is saved then; use %d'"
            ".format([self.keepEvery, self.everySteps, (self.keepEvery / self.everySteps + 1) * self.everySteps]) : "
            "'keepEvery needs everySteps: at other steps nothing is saved'",
        ),
    )

    @property
    def steps_interval(self) -> int | None:
        """Steps from one checkpoint to the next; None when seconds alone decide."""
        return self.every_steps or (None if self.every_seconds else DEFAULT_SAVE_STEPS)
