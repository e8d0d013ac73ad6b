"""Low-rank adapters, by peft: beside each weight that stays as it is, the product of two small matrices that are trained.

Adapters are parameters with names like any other, so checkpoints, ZeRO and resuming need to know nothing of them. A stage's
last checkpoint holds them beside the frozen weights; whoever loads it for another purpose than going on gets them merged.
"""

import warnings

import torch
from trainyard_api.training_stages import LoraSettings
from transformers import PreTrainedModel

from ..errors import PermanentError, setting


def with_adapters(model: PreTrainedModel, settings: LoraSettings, seed: int) -> PreTrainedModel:
    """The model with adapters, which change nothing yet and alone are trained; their first weights follow from the seed."""
    import peft

    heads = ["score"] if hasattr(model, "score") else []  # of a model that scores: they are new, and trained whole
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets or "all-linear",
        exclude_modules=heads or None,
        modules_to_save=heads or None,
    )
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, at what peft calls
            return peft.get_peft_model(model, config)
    except ValueError as error:
        linear = sorted(
            {name.split(".")[-1] for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
        )
        raise PermanentError(
            f"{setting('model.lora.targets')}: {error}; linear layers are {', '.join(linear)}"
        ) from None


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A model without adapters that says what this one does."""
    return model.merge_and_unload()
