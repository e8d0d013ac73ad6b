"""What training records of itself, on storage that comes and goes."""

import json
from pathlib import Path

import torch
from training import TINY, a_job
from trainyard_api.training_stages import PretrainStage
from trainyard_trainer.group import Group
from trainyard_trainer.pulse import Pulse
from trainyard_trainer.stages.progress import TrainingProgress
from transformers import LlamaConfig


def test_lines_that_can_not_be_written_are_written_when_they_can(tmp_path: Path) -> None:
    output, away = tmp_path / "base", tmp_path / "away"
    output.mkdir()
    job = a_job("pretrain", output, TINY, {})
    group = Group(job, 1, 0, 1, 0, output, {})
    stage = PretrainStage.model_validate(TINY)
    progress = TrainingProgress(stage, LlamaConfig(), torch.device("cpu"), group, Pulse(group))

    def record(step: int) -> None:
        progress.step(
            step, range(8 * step, 8 * step + 8), loss=1.0, figures={}, learning_rate=0.1, grad_norm=1.0, times={}
        )

    record(1)
    output.rename(away)
    record(2)
    progress.held_out(2, {"held_out_loss": 1.0})
    away.rename(output)
    record(3)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "loss" in line) for line in lines] == [(1, True), (2, True), (2, False), (3, True)]
