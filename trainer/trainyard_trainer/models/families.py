"""The model types that can be trained: their classes in transformers, and what each calls what we decide.

Where attention, positions and feed-forward are in each is a table in docs/models.md, which a test holds against the classes.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """One model type."""

    config: str
    model: str
    positions: str | None
    """The configuration's field for the number of positions; None where they have no limit."""
    scored: str | None = None
    """The model that scores texts, of decoders."""
    isolating: bool = False
    """Whether the model is ours, of models/isolating.py: transformers' own, told of documents by segment_ids."""

    def classes(self) -> tuple[type[PretrainedConfig], type[PreTrainedModel]]:
        """Configuration and model; only their own modules are imported, 0.2 s each."""
        transformers = importlib.import_module("transformers")
        models: Any = importlib.import_module(".isolating", __package__) if self.isolating else transformers
        return getattr(transformers, self.config), getattr(models, self.model)

    def scores(self) -> type[PreTrainedModel]:
        """The class of a decoder that scores."""
        assert self.scored
        found: type[PreTrainedModel] = getattr(importlib.import_module("transformers"), self.scored)
        return found


FAMILIES = {
    "llama": Family("LlamaConfig", "LlamaForCausalLM", "max_position_embeddings", "LlamaForSequenceClassification"),
    "qwen3": Family("Qwen3Config", "Qwen3ForCausalLM", "max_position_embeddings", "Qwen3ForSequenceClassification"),
    "gpt2": Family("GPT2Config", "GPT2LMHeadModel", "n_positions", "GPT2ForSequenceClassification"),
    "t5": Family("T5Config", "T5ForConditionalGeneration", None, isolating=True),
    "bert": Family("BertConfig", "BertForMaskedLM", "max_position_embeddings", isolating=True),
    "modernbert": Family("ModernBertConfig", "ModernBertForMaskedLM", "max_position_embeddings", isolating=True),
}
"""By transformers' model_type."""


def family_of(config: PretrainedConfig) -> Family:
    """Of a configuration."""
    return FAMILIES[config.model_type]


def position_limit(config: PretrainedConfig) -> int | None:
    """The longest row that the model can read, if there is one."""
    field = family_of(config).positions
    return int(getattr(config, field)) if field else None
