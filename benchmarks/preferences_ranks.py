"""One process of a contender of `benchmarks.preferences`; what it counts is tokens that are no padding, or pairs."""

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from .preferences_data import END, LENGTH, MICRO_BATCH, ROWS, pairs
from .turns import Turns


def trl(kind: str, scratch: Path, at_once: int, *, reference_first: bool = False) -> None:
    """TRL's trainer, with the settings that it has of itself, on tokens. `at_once` rows go through the model at once."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    turns, seen = Turns(), [0, 0, 0]

    class Count(TrainerCallback):
        def on_step_end(self, *given: Any, **named: Any) -> None:
            tokens, positions, rows = seen
            seen[:] = 0, 0, 0
            turns.step(tokens if kind == "sft" else rows, positions)

    base: Any = {"sft": trl.SFTTrainer, "dpo": trl.DPOTrainer}[kind]

    class Counted(base):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: dict[str, torch.Tensor], *more: Any) -> torch.Tensor:
            mask = inputs["attention_mask"]
            seen[0] += int(mask.sum())
            seen[1] += mask.numel()
            seen[2] += len(mask) // 2
            return super().training_step(model, inputs, *more)

        def _prepare_dataset(self, dataset: Any, *more: Any, **named: Any) -> Any:
            return dataset

    settings: dict[str, Any] = {"max_length": 256}
    if kind == "sft":
        rows = [
            {
                "input_ids": [END, *pair.prompt, *pair.chosen],
                "labels": [-100] * (1 + len(pair.prompt)) + pair.chosen,
            }
            for pair in pairs()
        ]
    else:
        rows = [
            {"prompt_ids": [END, *pair.prompt], "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}
            for pair in pairs()
        ]
        settings |= {"precompute_ref_log_probs": reference_first}
    config = {"sft": trl.SFTConfig, "dpo": trl.DPOConfig}[kind](
        output_dir=str(scratch / "trl"),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=ROWS // MICRO_BATCH,
        max_steps=1_000_000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        **settings,
    )
    tokenizer = AutoTokenizer.from_pretrained(scratch / "data/tokenizer", pad_token="<1>")
    model = LlamaForCausalLM.from_pretrained(scratch / "model", dtype=torch.float32)
    Counted(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        callbacks=[Count()],
    ).train()


def trainyard(kind: str, scratch: Path) -> None:
    """The stage."""
    from trainyard_trainer.data.batch import Batch
    from trainyard_trainer.engine.engine import Engine
    from trainyard_trainer.group import Group
    from trainyard_trainer.stages import training
    from trainyard_trainer.stages.progress import TrainingProgress

    turns, seen = Turns(), [0.0]

    class CountedEngine(Engine):
        def gradients(self, micro_batches: Iterable[Batch]) -> float:
            loss = super().gradients(micro_batches)
            seen[0] = self.num_labels
            return loss

    class CountedProgress(TrainingProgress):
        def step(self, step: int, positions: range, **said: Any) -> None:
            super().step(step, positions, **said)
            places = ROWS * LENGTH[kind]
            turns.step(real * places if kind == "sft" else seen[0], places, said["times"]["data"])

    group = Group.from_environment()
    real = 1.0
    if kind == "sft":
        from trainyard_trainer.data.objectives.responses import Responses

        real = Responses(LENGTH[kind], END).open(scratch / "data/train").real
    training.Engine, training.TrainingProgress = CountedEngine, CountedProgress
    getattr(import_module(f"trainyard_trainer.stages.{kind}"), kind)(group)


if __name__ == "__main__":
    who, kind, place, at_once = sys.argv[1:]
    if who == "trainyard":
        trainyard(kind, Path(place))
    else:
        trl(kind, Path(place), int(at_once), reference_first=who == "trl-first")
