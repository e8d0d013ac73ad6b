"""Where a stage's model comes from: its own configuration, an earlier stage, or a folder that the user has.

The tokens that a model reads are the data's: an earlier stage or a folder whose tokenizer is another is refused.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trainyard_api.objectives import OBJECTIVES, ModelType, TrainedOn, fitting
from trainyard_api.stages import LANGUAGE_MODEL_KINDS
from trainyard_api.training_stages import PretrainStage, TrainingStage
from transformers import PretrainedConfig, PreTrainedModel

from ..artifacts import read_artifact
from ..checkpoint.trained import load_trained, same_tokenizer
from ..data.fetched import fetch_folder
from ..data.objectives.choose import completed
from ..data.special_tokens import SpecialTokens, special_tokens
from ..errors import PermanentError, setting
from ..group import Group
from ..scratch import Note
from .build import build_model, load_config, model_config
from .families import FAMILIES, family_of, position_limit


@dataclass(frozen=True)
class Origin:
    """A model before its first step, and what it is to be trained on."""

    config: PretrainedConfig
    first: Callable[[], PreTrainedModel]
    """Makes it, with its first weights."""
    objective: TrainedOn
    tokens: SpecialTokens
    added: list[str]
    """Tokens that the data's tokenizer lacks, numbered behind its vocabulary."""


def origin(stage: TrainingStage, data: Path, group: Group, note: Note) -> Origin:
    """The model that the stage begins with. `data` is the first part's folder, whose tokens it reads."""
    earlier, folder = group.inputs.get("model.stage"), None
    if earlier:
        made = read_artifact(earlier, *LANGUAGE_MODEL_KINDS)["details"]
        stored, tokenizer = made["model"], earlier / made["tokenizer"]
    elif stage.model.path:
        once = f"{group.job.run_uid} {group.job.stage} {group.attempt}"
        folder = fetch_folder(stage.model.path, group.job.storage_uri, setting("model.path"), once, note)
        stored, tokenizer = _stored(folder), folder
    else:
        stored, tokenizer = {"model_type": stage.model.type}, data / "tokenizer"
    of_type = stored["model_type"]
    objective = _objective(stage, of_type)
    _refuse_other_tokens(stage, tokenizer, data)
    tokens, added = completed(special_tokens(data / "tokenizer"), of_type, stage.sequence_length)
    if stage.model.type:
        config = model_config(
            stage.model,
            vocab_size=tokens.size,
            end_of_text=tokens.end,
            sequence_length=stage.sequence_length,
            begin=tokens.begin,
            pad=tokens.pad,
        )
        return Origin(config, lambda: build_model(config, group.job.seed), objective, tokens, added)
    config = load_config(stored)
    _refuse_too_small(stage, config, tokens)
    first = (lambda: load_trained(earlier).model) if earlier else (lambda: _open_folder(folder, config))
    return Origin(config, first, objective, tokens, added)


def _objective(stage: TrainingStage, of_type: ModelType) -> TrainedOn:
    """What the stage trains on."""
    if not isinstance(stage, PretrainStage):
        if of_type not in fitting("NextToken"):
            raise PermanentError(
                f"{setting('model')}: the model is a {of_type}, and conversations are for decoders "
                f"({', '.join(fitting('NextToken'))}); name one of these"
            )
        objective: TrainedOn = stage.objective  # type: ignore[attr-defined]
        return objective
    if (given := stage.objective) and given not in OBJECTIVES[of_type]:
        raise PermanentError(
            f"{setting('objective')}: {given} is for {', '.join(fitting(given))}, and the model is a {of_type}; use "
            f"{' or '.join(OBJECTIVES[of_type])}, or leave it out"
        )
    return given or OBJECTIVES[of_type][0]


def _refuse_too_small(stage: TrainingStage, config: PretrainedConfig, tokens: SpecialTokens) -> None:
    """A model that there is has all positions and tokens."""
    named = stage.model.stage or stage.model.path
    if (limit := position_limit(config)) and stage.sequence_length > limit:
        raise PermanentError(
            f"{setting('sequenceLength')}: {stage.sequence_length} is more than the {limit} positions that the model of "
            f"{named} has; use that or less"
        )
    if config.vocab_size < tokens.size:
        raise PermanentError(
            f"{setting('model')}: that of {named} has {config.vocab_size} tokens, and {tokens.size} are needed (a mask or "
            f"sentinels come behind the text's); lower {setting('sequenceLength')}, or use a model that has them"
        )


def _open_folder(folder: Path | None, config: PretrainedConfig) -> PreTrainedModel:
    """The model of a folder with all its weights, in fp32."""
    _, model_class = family_of(config).classes()
    open_folder: Any = model_class.from_pretrained
    try:
        model, loaded = open_folder(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        what = " ".join(str(error).split())
        raise PermanentError(f"{setting('model.path')}: transformers can't open {folder}: {what}") from error
    if missing := sorted(loaded["missing_keys"]):
        raise PermanentError(
            f"{setting('model.path')}: {folder} has no weights for {', '.join(missing[:4])} ({len(missing)} in all); save the "
            f"model there as {model_class.__name__}"
        )
    return model  # type: ignore[no-any-return]


def _stored(folder: Path) -> dict[str, Any]:
    """The configuration in a folder."""
    try:
        stored: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise PermanentError(
            f"{setting('model.path')}: {folder}/config.json can't be read ({error}); write the folder with save_pretrained"
        ) from None
    if stored.get("model_type") not in FAMILIES:
        raise PermanentError(
            f"{setting('model.path')}: {folder} holds a {stored.get('model_type')}; what can be trained is "
            f"{', '.join(FAMILIES)}"
        )
    return stored


def _refuse_other_tokens(stage: TrainingStage, tokenizer: Path, data: Path) -> None:
    """The model reads the tokens that the data has."""
    field, name = ("path", stage.model.path) if stage.model.path else ("stage", stage.model.stage)
    if not (tokenizer / "tokenizer.json").exists():
        raise PermanentError(
            f"{setting(f'model.{field}')}: {name} has no tokenizer.json; write it with AutoTokenizer.from_pretrained(…)"
            ".save_pretrained(…)"
        )
    if not same_tokenizer(tokenizer, data / "tokenizer"):
        [part, *_] = stage.parts
        whose = (
            f"{name} (prepare.tokenizer.path)" if stage.model.path else f"the data of {name} (prepare.tokenizer.stage)"
        )
        raise PermanentError(
            f"{setting(f'model.{field}')}: {name} was trained on other tokens than {setting(part)} has; prepare "
            f"{stage.parts[part].data} with the tokenizer of {whose}"
        )
