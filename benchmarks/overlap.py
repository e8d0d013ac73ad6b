"""What drawing apart costs and what drawing ahead saves: seconds a step of GRPO on two workers that both learn and draw, on one
that learns and one that draws in turn, and on these two at the same time.

One run by `trainyard run`, as a user has it, a stage each, with the same model, prompts and lengths. On two cores: with both
workers learning, neither core ever waits, which is the bound.
"""

import json
import random
import statistics
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from local_runs import made, running, write_run
from training import metric_lines

from .figures import Figure, Results, main, spread

BAR, RAY_SECONDS = 1.3, 15.0
WARM_UP = 3
DEADLINE = 900
LLAMA = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
STAGES: dict[str, dict[str, Any]] = {
    "together": {},
    "apart": {"workers": 1},
    "overlap": {"workers": 1, "overlap": True},
}
REWARDS = """
def short(completions, **_):
    return [1 / (1 + len(said)) for said in completions]
"""


def measure(quick: bool) -> Results:
    """Rows of the table and figures."""
    with tempfile.TemporaryDirectory(prefix="trainyard-benchmark-") as scratch:
        steps, first = _run(Path(scratch), 12 if quick else 40)
    rows = [["two workers", "s a step, median (range)", "s from the stage before to its first step"]]
    rows += [[name, spread(steps[name]), f"{first[name]:.1f}"] for name in STAGES]
    medians = {name: statistics.median(of) for name, of in steps.items()}
    return rows, [
        Figure("apart_to_overlap", medians["apart"] / medians["overlap"], at_least=BAR),
        Figure("overlap_to_together", medians["overlap"] / medians["together"]),
        Figure("ray_start_seconds", first["apart"] - first["together"], bar=RAY_SECONDS),
    ]


def _run(folder: Path, steps: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Of each stage, the seconds of its steps, and those from the end of the stage before to its first one."""
    _write(folder, steps)
    with running(folder) as process:
        assert process.wait(DEADLINE) == 0, (folder / "output.txt").read_text()
    seconds, first, before = {}, {}, made(folder) / "tuned"
    for name in STAGES:
        stage = made(folder) / name
        lines = [line for line in metric_lines(stage) if "step_seconds" in line]
        seconds[name] = [line["step_seconds"] for line in lines[WARM_UP:]]
        first[name] = datetime.fromisoformat(lines[0]["time"]).timestamp() - (before / "artifact.json").stat().st_mtime
        before = stage
    return seconds, first


def _write(folder: Path, steps: int) -> None:
    """The run's file, and what it reads."""
    draw = random.Random(0)
    chat = [{"prompt": " ".join(draw.choices("0123456789", k=8)), "completion": "yes"} for _ in range(400)]
    texts = folder / "texts"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number}.txt").write_text("\n".join(row["prompt"] for row in chat[number::20]))
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat))
    (folder / "rewards.py").write_text(REWARDS)
    sizes = {"sequenceLength": 128, "globalBatch": 8, "microBatch": 4}
    prepared = {"tokenizer": {"stage": "texts"}, "heldOutFraction": 0.1}
    source = {"path": str(folder / "chat.jsonl"), "format": "conversations"}
    grpo = {
        **sizes,
        "data": "chat",
        "model": {"stage": "tuned"},
        "steps": steps,
        "globalBatch": 16,
        "rewards": [{"function": f"{folder / 'rewards.py'}:short"}],
        "optimizer": {"learningRate": 1e-6},
        "validation": {"everySteps": steps, "sequences": 8},
    }
    stages: list[dict[str, Any]] = [
        {"name": "texts", "prepare": {"sources": [{"path": str(texts)}], "tokenizer": {"vocabSize": 280}}},
        {"name": "chat", "prepare": {"sources": [source], **prepared}},
        {
            "name": "base",
            "pretrain": {"data": "texts", "model": {"type": "llama", "config": LLAMA}, "steps": 4, **sizes},
        },
        {"name": "tuned", "sft": {"data": "chat", "model": {"stage": "base"}, "steps": 4, **sizes}},
        *(
            {"name": name, "grpo": {**grpo, "rollout": {"responses": 8, "maxNewTokens": 48, **how}}}
            for name, how in STAGES.items()
        ),
    ]
    write_run(folder, stages, workers={"count": 2})


if __name__ == "__main__":
    main("overlap", " ".join(__doc__.split("\n\n")[0].split()), measure)
