"""The model that a pretrain stage made, for the stages that come after it."""

import json
from dataclasses import dataclass
from pathlib import Path

from trainyard_api.checkpoint import BadCheckpointError, read_manifest, verify_shards
from transformers import PreTrainedModel

from ..artifacts import read_artifact
from ..errors import PermanentError
from ..models.build import build_model, load_config
from .restore import load_weights, open_shards


@dataclass(frozen=True)
class TrainedModel:
    """A model in fp32, and what belongs to it."""

    model: PreTrainedModel
    tokenizer: Path
    """Folder with tokenizer.json."""
    sequence_length: int
    """Tokens of context that it was trained with."""

    @property
    def end_of_text(self) -> int:
        return int(self.model.config.eos_token_id)


def load_trained(folder: Path) -> TrainedModel:
    """Read the final checkpoint of a pretrain artifact, every byte checked."""
    details = read_artifact(folder, "pretrain")["details"]
    checkpoint = folder / details["checkpoint"]
    try:
        manifest = read_manifest(checkpoint)
        verify_shards(checkpoint, manifest.shards)
    except BadCheckpointError as error:
        raise PermanentError(f"{checkpoint}: {error}; train the model again, or restore the folder") from None
    model = build_model(load_config(details["model"]), seed=0)
    load_weights(model, manifest, open_shards(manifest, checkpoint))
    return TrainedModel(model.eval(), folder / details["tokenizer"], manifest.cursor.sequence_length)


def same_tokenizer(one: Path, other: Path) -> bool:
    """Whether two tokenizer folders turn text into the same tokens."""
    return bool(
        json.loads((one / "tokenizer.json").read_bytes()) == json.loads((other / "tokenizer.json").read_bytes())
    )
