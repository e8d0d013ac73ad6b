"""What a training tells of itself beside its progress: utilisation, to whom else, and a profile of some of its steps."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from .model import Model, rule

TrackerName = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class WandbSettings(Model):
    """A run at Weights & Biases. The image needs trainyard[wandb], and its pods WANDB_API_KEY."""

    project: TrackerName
    """Its project."""
    entity: TrackerName | None = None
    """User or team; that of the key if not given."""
    mode: Literal["Online", "Offline"] = "Online"
    """`Offline` writes to the stage's folder, for `wandb sync`."""


class MlflowSettings(Model):
    """A run at an MLflow server. The image needs trainyard[mlflow]."""

    tracking_uri: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """http://…, or the file:///… of a folder."""
    experiment: TrackerName
    """Made if there is none of this name."""


class TelemetrySettings(Model):
    """What training tells beside loss and speed."""

    peak_flops: Annotated[float, Field(gt=0, le=1e18)] | None = None
    """FLOP a second that a rank's device can do at most, for the MFU; by its data sheet if not given, on a CPU unknown."""
    wandb: WandbSettings | None = None
    """Tell Weights & Biases too."""
    mlflow: MlflowSettings | None = None
    """Tell MLflow too."""


LONGEST_PROFILE = 100
"""Steps, for every operator of each is kept in memory until the last one."""


class ProfileSettings(Model):
    """Steps whose operators are timed one by one, by torch's profiler on rank 0; they take longer for that."""

    steps: Annotated[list[Annotated[int, Field(ge=1, le=100_000_000)]], Field(min_length=2, max_length=2)]
    """The first and the last one: [10, 15]."""

    rules: ClassVar = (
        rule(
            f"self.steps[0] <= self.steps[1] && self.steps[1] - self.steps[0] < {LONGEST_PROFILE}",
            lambda it: 0 <= it.steps[1] - it.steps[0] < LONGEST_PROFILE,
            f"give the first and the last step of {LONGEST_PROFILE} at most, such as [10, 15]",
            "steps",
        ),
    )
