"""What a user may say of learning from preferences."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .model import Model, rule


class PreferenceSettings(Model):
    """The loss of a pair of responses."""

    loss: Literal["Sigmoid", "Robust", "Hinge", "IPO"] = "Sigmoid"
    """`Sigmoid` is DPO (Rafailov et al. 2023); `Robust` is right in expectation if labelSmoothing is the share of choices that
    are wrong (Chowdhury et al. 2024); `Hinge` (Zhao et al. 2023); `IPO` (Azar et al. 2023).
    """
    beta: Annotated[float, Field(gt=0, le=1000)] = 0.1
    """How much it costs to move away from the reference."""
    label_smoothing: Annotated[float, Field(ge=0, le=0.49)] = 0.0
    """The share of choices that is taken to be wrong."""
    length_normalised: bool = False
    """Compare log-probabilities of a token in the mean, not of whole responses; IPO always does."""

    rules: ClassVar = (
        rule(
            "!has(self.labelSmoothing) || self.labelSmoothing == 0.0 || self.loss in ['Sigmoid', 'Robust']",
            lambda it: it.label_smoothing == 0 or it.loss in ("Sigmoid", "Robust"),
            "only the losses Sigmoid and Robust know wrong choices; leave it out",
            "labelSmoothing",
        ),
    )

    @property
    def normalises(self) -> bool:
        """Whether a token's mean is compared."""
        return self.length_normalised or self.loss == "IPO"
