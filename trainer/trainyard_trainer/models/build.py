"""A model from `ModelSettings`: transformers' own, with sizes that follow from data and stage.

Vocabulary and special tokens come from the tokenizer, the position limit from the stage's sequence length, and the first
weights from the seed alone. Attention is PyTorch's scaled_dot_product_attention, with a mask where documents share a row and
its causal kernel where they don't; so on GPUs too: kernels for documents of varying length, without a mask, are not used yet.
"""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from trainyard_api.training_stages import MODEL_OWNED, ModelSettings
from transformers import PretrainedConfig, PreTrainedModel

from ..errors import PermanentError, setting
from .families import FAMILIES, family_of

T = TypeVar("T")


def model_config(
    settings: ModelSettings,
    *,
    vocab_size: int,
    end_of_text: int,
    sequence_length: int,
    begin: int | None = None,
    pad: int | None = None,
) -> PretrainedConfig:
    """The transformers configuration that the settings describe; a mistake in them is a PermanentError by its key."""
    assert settings.type
    family = FAMILIES[settings.type]
    config_class, _ = family.classes()
    given = settings.config or {}
    _refuse_unknown_keys(given, config_class)
    sizes: dict[str, Any] = {}
    if positions := family.positions:
        limit = given.get(positions, sequence_length)
        if not isinstance(limit, int) or limit < sequence_length:
            raise PermanentError(
                f"{setting(f'model.config.{positions}')}: {limit!r} is not a number of at least {setting('sequenceLength')}, "
                f"{sequence_length}; leave it out to use that"
            )
        sizes[positions] = sequence_length
    sizes |= {**given, "vocab_size": vocab_size}
    sizes |= _special(settings.type, end_of_text if begin is None else begin, end_of_text, pad)
    return _refusing(lambda: config_class(**sizes))


def _special(model_type: str, begin: int, end: int, pad: int | None) -> dict[str, int | None]:
    """The numbers of special tokens, as the type names them."""
    special = {"bos_token_id": begin, "eos_token_id": end}
    if model_type == "t5":
        start = end if pad is None else pad  # as T5 has it, which has no begin
        return special | {"pad_token_id": start, "decoder_start_token_id": start}
    if model_type == "modernbert":
        special |= {"cls_token_id": begin, "sep_token_id": end}
    # An embedding that transformers takes for padding is never trained, so no token of the text may be it.
    return special | {"pad_token_id": None if pad in (begin, end) else pad}


def load_config(stored: dict[str, Any]) -> PretrainedConfig:
    """The configuration that a pretrain artifact holds."""
    config_class, _ = FAMILIES[stored["model_type"]].classes()
    return config_class.from_dict(stored)


def build_model(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """A model in fp32 whose first weights are a function of the seed alone."""
    _, model_class = family_of(config).classes()
    torch.manual_seed(seed)
    make: Callable[..., PreTrainedModel] = model_class._from_config
    return _refusing(lambda: make(config, attn_implementation="sdpa", dtype=torch.float32))


def _refuse_unknown_keys(given: dict[str, Any], config_class: type[PretrainedConfig]) -> None:
    """transformers keeps unknown keys silently; here a misspelt one must not train another model than was meant."""
    general = set(PretrainedConfig().to_dict()) - {"tie_word_embeddings"}
    known = (set(config_class().to_dict()) | set(config_class.attribute_map)) - general - set(MODEL_OWNED)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise PermanentError(
                f"{setting(f'model.config.{key}')}: unknown for {config_class.model_type}; use {near[0]}?"
            )


def _refusing(make: Callable[[], T]) -> T:
    """What transformers refuses, it would refuse again. Its own errors have no class in common."""
    try:
        return make()
    except Exception as error:
        what = f"no such name: {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise PermanentError(f"{setting('model.config')}: transformers refuses it: {what}") from error
