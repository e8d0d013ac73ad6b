"""A rank that trains one model after another: starting processes costs more than training a tiny model.

argv[1] is JSON, a list of {name, settings, inputs?, fork?: {name, step}, weights?: name, evaluate?}: `fork` goes on from
another training's checkpoint, `weights` begins with what another one ended with, `evaluate` has settings for an evaluation of
what was trained, in <name>-evaluated.
Each rank keeps a ledger of what it trains on: sequences-<rank>.jsonl, a line {step, labels} for each micro-batch.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch.distributed
from trainyard_api.training_stages import PretrainStage
from trainyard_trainer.data.batch import Batch
from trainyard_trainer.engine import processes
from trainyard_trainer.engine.batches import Batches
from trainyard_trainer.group import Group
from trainyard_trainer.stages import evaluate, training


class RecordedBatches(Batches):
    def micro_batches(self, step: int) -> Iterator[Batch]:
        with open(self.group.output / f"sequences-{self.group.rank}.jsonl", "a") as ledger:
            for batch in super().micro_batches(step):
                print(json.dumps({"step": step, "labels": batch.labels.tolist()}), file=ledger)
                yield batch


training.Batches = RecordedBatches
group = Group.from_environment()
device = processes.join(group)
processes.join, processes.leave = lambda _: device, lambda: None  # for evaluations: these ranks are connected once
for each in json.loads(sys.argv[1]):
    output = group.output / each["name"]
    if group.rank == 0:
        output.mkdir()
        if fork := each.get("fork"):
            [checkpoint] = (group.output / fork["name"]).glob(f"checkpoints/step-{fork['step']:08}-a*")
            shutil.copytree(checkpoint, output / "checkpoints" / checkpoint.name)
    torch.distributed.barrier()
    inputs = dict(group.inputs) | {field: Path(folder) for field, folder in each.get("inputs", {}).items()}
    if weights := each.get("weights"):
        inputs["model.stage"] = group.output / weights
    uris = {field: f"file://{folder}" for field, folder in inputs.items()}
    told = {"settings": each["settings"], "output_uri": f"file://{output}", "inputs": uris}
    trained = replace(group, job=group.job.model_copy(update=told), output=output, inputs=inputs)
    training.train_connected(trained.settings(PretrainStage), trained, device)
    torch.distributed.barrier()
    if settings := each.get("evaluate"):
        inputs = {"model": output, "data": inputs["data"]}
        output = group.output / f"{each['name']}-evaluated"
        output.mkdir(exist_ok=True)
        uris = {field: f"file://{folder}" for field, folder in inputs.items()}
        told = {"kind": "evaluate", "settings": settings, "output_uri": f"file://{output}", "inputs": uris}
        evaluate.evaluate(replace(group, job=group.job.model_copy(update=told), output=output, inputs=inputs))
        torch.distributed.barrier()
os._exit(0)
