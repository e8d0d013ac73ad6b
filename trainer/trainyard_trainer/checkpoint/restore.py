"""From a checkpoint back into a model and its engine, whatever ZeRO stage and world size wrote it.

In two halves, for this order can't go wrong: the weights go into the plain model before DeepSpeed gets it, so that every
copy that DeepSpeed makes of them (bf16, gathered, partitioned) is right from the start; then fp32 masters and moments
are overwritten in place.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from trainyard_api.checkpoint import Cursor, Manifest
from trainyard_api.training_stages import TrainingStage

from ..engine.engine import Engine
from ..engine.randomness import restore_streams, seed_streams
from ..engine.state import MASTER
from ..errors import PermanentError, setting
from ..group import Group
from .tensors import Piece, Shards

_CURSOR_FIELDS = {"global_batch": "globalBatch", "sequence_length": "sequenceLength", "objective": "objective"}


def refuse_other_training(manifest: Manifest, cursor: Cursor, stage: TrainingStage) -> None:
    """PermanentError if going on would mean another order of data than before, or if more steps are done than asked for."""
    for name, was, now in _compared(manifest.cursor, cursor, stage):
        if was != now:
            raise PermanentError(
                f"{name}: the checkpoint of step {manifest.step} was trained with {was}, not {now}; set it back, or give "
                "the run another name to train from the start"
            )
    if manifest.step > stage.steps:
        raise PermanentError(
            f"{setting('steps')}: {stage.steps}, but the checkpoint has {manifest.step} done; raise it"
        )


def _compared(there: Cursor, here: Cursor, stage: TrainingStage) -> Iterator[tuple[str, Any, Any]]:
    """(field of the settings, its value in the checkpoint, its value now) of all that defines the order of data."""
    yield "seed", there.seed, here.seed
    for field, name in _CURSOR_FIELDS.items():
        yield setting(name), getattr(there, field), getattr(here, field)
    whole = setting("mixture") if stage.mixture else setting("data")
    yield whole, f"{len(there.parts)} corpora", f"{len(here.parts)} corpora"
    for field, was, now in zip(stage.parts, there.parts, here.parts, strict=True):
        yield setting(field), was.digest, now.digest
        yield setting(f"{field.removesuffix('.data')}.weight"), was.weight, now.weight


def load_weights(model: nn.Module, manifest: Manifest, shards: Shards) -> None:
    """Fill a plain model with the fp32 weights of a checkpoint."""
    refuse_other_model(model, manifest)
    parameters = dict(model.named_parameters())
    pieces = [Piece(MASTER, name, 0, parameter.numel()) for name, parameter in parameters.items()]
    with torch.no_grad():
        for parameter, values in zip(parameters.values(), shards.read_each(pieces), strict=True):
            parameter.copy_(values.view_as(parameter))


def refuse_other_model(model: nn.Module, manifest: Manifest) -> None:
    """PermanentError unless the checkpoint has just the parameters of the model."""
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    for name in shapes | manifest.parameters:
        if shapes.get(name) != manifest.parameters.get(name):
            raise PermanentError(
                f"{setting('model.config')}: {name} is {shapes.get(name)} here and {manifest.parameters.get(name)} in the "
                f"checkpoint of step {manifest.step}; set the model back, or give the run another name"
            )


def load_state(engine: Engine, manifest: Manifest, shards: Shards, group: Group) -> None:
    """Fill this rank's masters and moments, and take up its random streams and the history of the numerics."""
    fragments = [(fragment, fragment.spans) for fragment in engine.fragments()]
    places = [
        (fragment.state[kind], kind, fragment.name, spans) for fragment, spans in fragments for kind in fragment.state
    ]
    pieces = [Piece(kind, name, spans[0][0], spans[-1][1]) for _, kind, name, spans in places]
    for (place, _, _, spans), piece, values in zip(places, pieces, shards.read_each(pieces), strict=True):
        parts = [values[low - piece.start : high - piece.start] for low, high in spans]
        place.copy_(parts[0] if len(parts) == 1 else torch.cat(parts))
    engine.numerics.restore(shards.numerics())
    engine.set_steps(manifest.step)
    sharing = group.rank // engine.sharers  # those that share layers draw the same
    if manifest.world_size == group.world_size:
        restore_streams(shards.streams(sharing * engine.sharers))
    else:
        seed_streams(group.job.seed, manifest.step, sharing)
