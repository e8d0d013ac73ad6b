"""What a user may say of learning from preferences."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .model import Model, rule


class PreferenceSettings(Model):
    """The loss of a pair of responses, or of single ones that are good or not."""

    loss: Literal["Sigmoid", "Robust", "Hinge", "IPO", "KTO"] = "Sigmoid"
    """`Sigmoid` is DPO (Rafailov et al. 2023); `Robust` is right in expectation if labelSmoothing is the share of choices that
    are wrong (Chowdhury et al. 2024); `Hinge` (Zhao et al. 2023); `IPO` (Azar et al. 2023); `KTO` is of unpaired responses
    (Ethayarajh et al. 2024).
    """
    beta: Annotated[float, Field(gt=0, le=1000)] = 0.1
    """How much it costs to move away from the reference."""
    label_smoothing: Annotated[float, Field(ge=0, le=0.49)] = 0.0
    """The share of choices that is taken to be wrong."""
    length_normalised: bool = False
    """Compare log-probabilities of a token in the mean, not of whole responses; IPO always does."""
    sft_weight: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Of the chosen responses' own loss, of a token in the mean, which is added (Pang et al. 2024, equation 1): it keeps them
    from becoming less likely together with the rejected ones.
    """
    desirable_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """KTO's λ of good responses. Where these are few, it is to be as many times the other as they are fewer."""
    undesirable_weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """KTO's λ of the others."""

    rules: ClassVar = (
        rule(
            "!has(self.labelSmoothing) || self.labelSmoothing == 0.0 || self.loss in ['Sigmoid', 'Robust']",
            lambda it: it.label_smoothing == 0 or it.loss in ("Sigmoid", "Robust"),
            "only the losses Sigmoid and Robust know wrong choices; leave it out",
            "labelSmoothing",
        ),
        rule(
            "!has(self.sftWeight) || self.sftWeight == 0.0 || self.loss != 'KTO'",
            lambda it: it.sft_weight == 0 or it.loss != "KTO",
            "the loss KTO is of responses that nothing was chosen from; leave it out",
            "sftWeight",
        ),
        rule(
            "(!has(self.desirableWeight) || self.desirableWeight == 1.0) && "
            "(!has(self.undesirableWeight) || self.undesirableWeight == 1.0) || self.loss == 'KTO'",
            lambda it: it.loss == "KTO" or it.desirable_weight == it.undesirable_weight == 1,
            "only the loss KTO weighs good and bad responses; leave desirableWeight and undesirableWeight out",
            "desirableWeight",
        ),
    )

    @property
    def normalises(self) -> bool:
        """Whether a token's mean is compared."""
        return self.length_normalised or self.loss == "IPO"
