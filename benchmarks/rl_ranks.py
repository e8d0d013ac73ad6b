"""One process of a contender of `benchmarks.rl`; what it counts is responses that it has learned from."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from .preferences_data import pairs
from .rl_data import LONGEST, PROMPTS, RESPONSES, reward
from .turns import Turns


def trl(scratch: Path) -> None:
    """TRL's GRPOTrainer, on texts, with the settings that it has of itself but for the sizes of a step."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    turns = Turns()

    class Count(TrainerCallback):
        def on_step_end(self, *given: Any, **named: Any) -> None:
            turns.step(PROMPTS * RESPONSES, PROMPTS * RESPONSES)

    tokenizer = AutoTokenizer.from_pretrained(scratch / "data/tokenizer", pad_token="<1>")
    config = trl.GRPOConfig(
        output_dir=str(scratch / "trl"),
        per_device_train_batch_size=PROMPTS * RESPONSES,
        num_generations=RESPONSES,
        max_completion_length=LONGEST,
        max_steps=1_000_000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
    )
    trl.GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(scratch / "model", dtype=torch.float32),
        reward_funcs=lambda completions, **_: reward(completions),
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": tokenizer.decode(pair.prompt)} for pair in pairs()]),
        callbacks=[Count()],
    ).train()


def trainyard() -> None:
    """The stage."""
    from trainyard_trainer.group import Group
    from trainyard_trainer.stages import training
    from trainyard_trainer.stages.grpo import grpo
    from trainyard_trainer.stages.progress import TrainingProgress

    turns = Turns()

    class CountedProgress(TrainingProgress):
        def step(self, step: int, positions: range, **said: Any) -> None:
            super().step(step, positions, **said)
            turns.step(PROMPTS * RESPONSES, PROMPTS * RESPONSES, said["times"]["generate"])

    training.TrainingProgress = CountedProgress  # type: ignore[misc]
    grpo(Group.from_environment())


if __name__ == "__main__":
    who, place = sys.argv[1:]
    trainyard() if who == "trainyard" else trl(Path(place))
