"""Engines of tiny models, in the tests' own process."""

import torch
from training import TINY, TINY_LLAMA
from trainyard_api.checkpoint import Cursor, CursorPart
from trainyard_api.protocol import Artifact
from trainyard_api.training_stages import ModelSettings, PretrainStage
from trainyard_trainer.engine.engine import Engine
from trainyard_trainer.group import Group
from trainyard_trainer.models.build import build_model, model_config
from trainyard_trainer.stages.training import train_connected

CURSOR = Cursor(seed=7, global_batch=8, sequence_length=16, parts=[CursorPart(digest="d", weight=1)])


def an_engine(device: torch.device, seed: int = 7, **deepspeed: object) -> Engine:
    settings = ModelSettings.model_validate(TINY_LLAMA)
    model = build_model(model_config(settings, vocab_size=300, end_of_text=0, sequence_length=16), seed)
    return Engine(model, PretrainStage.model_validate(TINY | {"deepspeed": deepspeed}), 1, device)


def pretrain_connected(group: Group, device: torch.device) -> Artifact | None:
    """The pretrain stage of a rank that is connected already."""
    return train_connected(group.settings(PretrainStage), group, device)
