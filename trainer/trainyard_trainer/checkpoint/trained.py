"""The model that a stage has trained, for the stages that come after it."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from trainyard_api.checkpoint import BadCheckpointError, Manifest, read_manifest, read_shard
from trainyard_api.objectives import TrainedOn
from trainyard_api.stages import TRAINING_KINDS
from trainyard_api.storage import Storage, open_storage
from trainyard_api.training_stages import LoraSettings
from transformers import PreTrainedModel

from ..artifacts import read_artifact
from ..engine.state import MASTER
from ..errors import PermanentError
from ..models.build import build_model, load_config
from ..models.critic import of_policy
from ..models.lora import merged, with_adapters
from ..models.scoring import centre, with_scores
from .restore import refuse_other_model
from .tensors import Shards


@dataclass(frozen=True)
class TrainedModel:
    """A model in fp32, and what belongs to it."""

    model: PreTrainedModel
    tokenizer: Path
    """Folder with tokenizer.json."""
    sequence_length: int
    """Tokens of context that it was trained with."""
    objective: TrainedOn
    added_tokens: list[str]
    """Those that it has and its tokenizer hasn't, numbered behind its vocabulary."""

    @property
    def end_of_text(self) -> int:
        return int(self.model.config.eos_token_id)


def load_trained(folder: Path) -> TrainedModel:
    """Read the final checkpoint of a trained model's artifact, every byte checked."""
    details = read_artifact(folder, *TRAINING_KINDS)["details"]
    checkpoint = open_storage(f"file://{folder}").at(details["checkpoint"])
    model = build_model(load_config(details["model"]), seed=0)
    if scores := details.get("scores"):
        model = with_scores(model, scores["heads"], seed=0)
    if adapters := details.get("lora"):
        model = with_adapters(model, LoraSettings.read_stored(adapters), seed=0)
    try:
        manifest = read_manifest(checkpoint)
        manifest = manifest.model_copy(update={"parameters": of_policy(manifest.parameters)})
        refuse_other_model(model, manifest)
        _fill(model, checkpoint, manifest)
    except BadCheckpointError as error:
        raise PermanentError(f"{checkpoint.uri}: {error}; train the model again, or restore the folder") from None
    if adapters:
        model = merged(model)
    if scores:
        centre(model, scores["means"])
    return TrainedModel(
        model.eval(),
        folder / details["tokenizer"],
        manifest.cursor.sequence_length,
        details.get("objective", "NextToken"),
        details.get("addedTokens", []),
    )


@torch.no_grad()
def _fill(model: PreTrainedModel, checkpoint: Storage, manifest: Manifest) -> None:
    """Take the weights out of one shard after the other: what is in memory beside the model is one of them."""
    parameters = dict(model.named_parameters())
    missing = sum(parameter.numel() for parameter in parameters.values())
    for shard in manifest.shards:
        for name, start, values in Shards([read_shard(checkpoint, shard)]).held(MASTER):
            if name not in manifest.parameters:
                continue
            parameters[name].view(-1)[start : start + len(values)] = values
            missing -= len(values)
    if missing:
        raise BadCheckpointError(f"{missing} weights are missing")


def same_tokenizer(one: Path, other: Path) -> bool:
    """Whether two tokenizer folders turn text into the same tokens."""
    return bool(
        json.loads((one / "tokenizer.json").read_bytes()) == json.loads((other / "tokenizer.json").read_bytes())
    )
