"""A decoder from `ModelSettings`: transformers' own Llama and GPT-2, with sizes that follow from data and stage.

Vocabulary and end-of-text token come from the tokenizer, the position limit from the stage's sequence length, and the
first weights from the seed alone. Attention is PyTorch's scaled_dot_product_attention: no padding is ever passed, so it
runs its causal kernel without a mask.
"""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from trainyard_api.stages import MODEL_OWNED, ModelSettings
from transformers import PretrainedConfig, PreTrainedModel

from ..errors import PermanentError

T = TypeVar("T")

_POSITIONS = {"llama": "max_position_embeddings", "gpt2": "n_positions"}


def model_config(
    settings: ModelSettings, *, vocab_size: int, end_of_text: int, sequence_length: int
) -> PretrainedConfig:
    """The transformers configuration that the settings describe; a mistake in them is a PermanentError by its key."""
    assert settings.type
    config_class, _ = _classes(settings.type)
    given = settings.config or {}
    _refuse_unknown_keys(given, config_class)
    positions = _POSITIONS[settings.type]
    limit = given.get(positions, sequence_length)
    if not isinstance(limit, int) or limit < sequence_length:
        raise PermanentError(
            f"pretrain.model.config.{positions}: {limit!r} is not a number of at least pretrain.sequenceLength, "
            f"{sequence_length}; leave it out to use that"
        )
    sizes = {
        positions: sequence_length,
        **given,
        "vocab_size": vocab_size,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }
    return _refusing(lambda: config_class(**sizes))


def load_config(stored: dict[str, Any]) -> PretrainedConfig:
    """The configuration that a pretrain artifact holds."""
    config_class, _ = _classes(stored["model_type"])
    return config_class.from_dict(stored)


def build_model(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """A model in fp32 whose first weights are a function of the seed alone."""
    _, model_class = _classes(config.model_type)
    torch.manual_seed(seed)
    make: Callable[..., PreTrainedModel] = model_class._from_config
    return _refusing(lambda: make(config, attn_implementation="sdpa", dtype=torch.float32))


def _classes(model_type: str) -> tuple[type[PretrainedConfig], type[PreTrainedModel]]:
    """Configuration and model of a type; the import of the other type's module, 0.2 s, is saved."""
    if model_type == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaConfig, LlamaForCausalLM
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2Config, GPT2LMHeadModel


def _refuse_unknown_keys(given: dict[str, Any], config_class: type[PretrainedConfig]) -> None:
    """transformers keeps unknown keys silently; here a misspelt one must not train another model than was meant."""
    general = set(PretrainedConfig().to_dict()) - {"tie_word_embeddings"}
    known = (set(config_class().to_dict()) | set(config_class.attribute_map)) - general - set(MODEL_OWNED)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise PermanentError(f"pretrain.model.config.{key}: unknown for {config_class.model_type}; use {near[0]}?")


def _refusing(make: Callable[[], T]) -> T:
    """What transformers refuses, it would refuse again. Its own errors have no class in common."""
    try:
        return make()
    except Exception as error:
        what = f"no such name: {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise PermanentError(f"pretrain.model.config: transformers refuses it: {what}") from error
