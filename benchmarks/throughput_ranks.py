"""One process of a contender of `benchmarks.throughput`; what it counts is tokens of documents."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from .throughput_data import END_OF_TEXT, Shape, documents
from .turns import Turns


def a_model(shape: Shape) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape.config, vocab_size=shape.vocabulary, max_position_embeddings=shape.sequence_length, use_cache=False
    )
    return LlamaForCausalLM(config)


def plain(shape: Shape, scratch: Path) -> None:
    """A loop as nanoGPT and its like have it."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    import numpy as np

    model = a_model(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    length, turns = shape.sequence_length, Turns()
    [file] = (scratch / "corpus/train").glob("*.bin")
    stream = np.memmap(file, dtype="<u2", mode="r")
    draw = np.random.default_rng(0)

    def batch() -> Tensor:
        starts = draw.integers(len(stream) - length - 1, size=shape.micro_batch)
        return torch.from_numpy(np.stack([stream[at : at + length + 1].astype(np.int64) for at in starts]))

    while True:
        accumulation = shape.global_batch // shape.micro_batch
        for _ in range(accumulation):
            tokens_BT = batch()
            logits_BTV = model(input_ids=tokens_BT[:, :-1]).logits
            loss = cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten()) / accumulation
            loss.backward()
            loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        positions = shape.global_batch * length
        turns.step(positions, positions)


def trainer(shape: Shape, scratch: Path) -> None:
    """transformers' own loop, with the settings that it has of itself, on documents."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    from transformers import Trainer, TrainerCallback, TrainingArguments

    turns, seen = Turns(), [0, 0]

    def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Padded to the longest, as transformers' collators do."""
        tokens = [row["input_ids"] for row in rows]
        ids_BT = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=END_OF_TEXT)
        mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in tokens], batch_first=True)
        return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": ids_BT.masked_fill(mask_BT == 0, -100)}

    class Count(TrainerCallback):
        def on_step_end(self, *given: Any, **named: Any) -> None:
            tokens, positions = seen
            seen[:] = 0, 0
            turns.step(tokens, positions)

    class Counted(Trainer):
        def training_step(self, model: Any, inputs: dict[str, Tensor], *more: Any) -> Tensor:
            seen[0] += int(inputs["attention_mask"].sum())
            seen[1] += inputs["input_ids"].numel()
            return super().training_step(model, inputs, *more)

    arguments = TrainingArguments(
        output_dir=str(scratch / "trainer"),
        per_device_train_batch_size=shape.micro_batch,
        gradient_accumulation_steps=shape.global_batch // shape.micro_batch,
        max_steps=1_000_000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    rows = [{"input_ids": torch.from_numpy(each)} for each in documents(shape)]
    Counted(a_model(shape), arguments, collate, rows, callbacks=[Count()]).train()


def trainyard(shape: Shape, scratch: Path) -> None:
    """The pretrain stage."""
    from trainyard_trainer.data.batch import Batch
    from trainyard_trainer.engine.engine import Engine
    from trainyard_trainer.group import Group
    from trainyard_trainer.stages import pretrain, training
    from trainyard_trainer.stages.progress import TrainingProgress

    turns, seen = Turns(), [0]

    class CountedEngine(Engine):
        def gradients(self, micro_batches: Iterable[Batch]) -> float:
            loss = super().gradients(micro_batches)
            seen[0] = self.num_labels
            return loss

    class CountedProgress(TrainingProgress):
        def step(self, step: int, positions: range, **said: Any) -> None:
            super().step(step, positions, **said)
            turns.step(seen[0], shape.global_batch * shape.sequence_length, said["times"]["data"])

    training.Engine, training.TrainingProgress = CountedEngine, CountedProgress
    pretrain.pretrain(Group.from_environment())


if __name__ == "__main__":
    kind, given, scratch = sys.argv[1:]
    {"plain": plain, "trainer": trainer, "trainyard": trainyard}[kind](Shape.model_validate_json(given), Path(scratch))
