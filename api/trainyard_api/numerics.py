"""What training does when its numbers go wrong: a loss or gradient that is no number, or a loss far above the last ones."""

from typing import Annotated, Literal

from pydantic import Field

from .model import Model

Remedy = Literal["Skip", "RollBack", "Stop"]
FaultKind = Literal["NonFinite", "Spike"]


class SpikeSettings(Model):
    """When a loss counts as a spike, and what to do about it."""

    action: Literal["Ignore", "Skip", "RollBack", "Stop"] = "Ignore"
    """`Skip` leaves the batch out, `RollBack` goes back `rollBackSteps` as well, `Stop` fails the run."""
    deviations: Annotated[float, Field(ge=1, le=1000)] = 6
    """Standard deviations above the mean of the last `window` losses from which on it is one."""
    window: Annotated[int, Field(ge=8, le=10_000)] = 128
    """Losses that it is compared with; before there are so many, none is a spike."""


class NumericsSettings(Model):
    """What to do when numbers go wrong. It is decided by all ranks together, before the batch has changed any weight."""

    non_finite: Remedy = "Skip"
    """For a loss or gradient that is NaN or infinite: `Skip` leaves the batch out, `RollBack` goes back `rollBackSteps` as
    well, `Stop` fails the run.
    """
    spike: SpikeSettings = SpikeSettings()
    roll_back_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 100
    """Steps that `RollBack` goes back, at least: to the newest checkpoint that old, or the oldest that is kept.

    It goes on with the batches after the bad one: those in between are not trained on again.
    """
    max_faults: Annotated[int, Field(ge=1, le=1000)] = 10
    """Bad batches within `withinSteps` that are skipped or rolled back from; one more fails the run."""
    within_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    """Optimizer steps in which they are counted."""
