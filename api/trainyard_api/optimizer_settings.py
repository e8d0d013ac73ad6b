"""How a training's weights follow from its batches: what is minimised, the optimizer, and the schedule of its learning rate."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from .model import Model, rule


class ParameterGroup(Model):
    """Parameters that are trained otherwise than the rest."""

    parameters: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    """Their names, as a pattern with `*`, `?` and `[…]`: `*embed_tokens*`. Of several groups the first that matches counts."""
    learning_rate_scale: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Times the learning rate of the schedule."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] | None = None
    """Instead of the decay that they would have."""


class OptimizerSettings(Model):
    """AdamW (Loshchilov & Hutter 2019, algorithm 2)."""

    learning_rate: Annotated[float, Field(gt=0, le=10)] = 3e-4
    """The peak, reached after warm-up."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the mean of gradients."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of the mean of squared gradients."""
    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Added to the root of that mean."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1
    """Decoupled from the gradient, times the learning rate."""
    decayed: Literal["Linear", "Matrices", "All"] = "Linear"
    """What decays: matrices of linear layers; those and embeddings; or all, norms and biases too."""
    clip_norm: Annotated[float, Field(ge=0, le=1_000_000)] = 1.0
    """Global gradient norm above which gradients are scaled down; 0 switches clipping off."""
    groups: Annotated[list[ParameterGroup], Field(max_length=64)] = []
    """Parameters with a learning rate or decay of their own."""


class ScheduleSettings(Model):
    """Linear warm-up, then down to a share of the peak."""

    shape: Literal["Cosine", "Linear", "WarmupStableDecay"] = "Cosine"
    """Half a cosine (Loshchilov & Hutter 2017, eq. 5, one cycle); a line; or the peak until decaySteps before the end, and
    a line then (Hu et al. 2024, MiniCPM)."""
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Steps in which the learning rate grows from 0 to its peak."""
    decay_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Steps of the decay of `WarmupStableDecay`; a tenth of all if not given."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the last step, as a share of the peak."""

    rules: ClassVar = (
        rule(
            "!has(self.decaySteps) || self.shape == 'WarmupStableDecay'",
            lambda it: it.decay_steps is None or it.shape == "WarmupStableDecay",
            "only WarmupStableDecay has it: the other shapes go down all the way from the warm-up; leave it out",
            "decaySteps",
        ),
    )


class LossSettings(Model):
    """Cross-entropy, the mean over the labels of a global batch, however it is cut. What is reported is that alone."""

    z_loss: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Times the squared logarithm of softmax's normaliser, which keeps logits small: 1e-4 (Chowdhery et al. 2022, PaLM)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread evenly over the vocabulary (Szegedy et al. 2016)."""
