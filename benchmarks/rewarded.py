"""Whether a model learns what can be checked: the share of right answers to new prompts, as grpo goes on.

One run a seed, by `trainyard run`, as a user has it: a small Llama is fine-tuned to sort four digits until it is right about
half of the time, and then learns from a function that says of its own answers whether they are right. Answers are drawn at
temperature 1, eight to each of 128 prompts that it has not learned from. Intervals are Wilson's over prompts, 95 %. Two minutes
a seed on two cores.
"""

import json
import random
import tempfile
from pathlib import Path

from local_runs import made, running, write_run
from training import metric_lines
from trainyard_trainer.evaluation.intervals import wilson

from .figures import Figure, Results, main
from .learning_curves import Curve, Panel, draw_curves

BAR = 0.9
ROWS, PROMPTS, STEPS, EVERY = 4000, 128, 320, 80
DEADLINE = 900
LLAMA = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
RIGHT = """
def right(completions, answers, **_):
    return [float(said == wanted) for said, wanted in zip(completions, answers)]
"""


def measure(quick: bool, file: Path | None = None) -> Results:
    """Rows of the table and figures; with a file, a picture."""
    rows, curves = [["seed", "at first", *(f"step {step}" for step in range(EVERY, STEPS + 1, EVERY))]], []
    for seed in range(1 if quick else 3):
        with tempfile.TemporaryDirectory(prefix="trainyard-benchmark-") as scratch:
            curve = _run(Path(scratch), seed)
        curves.append(curve)
        *shares, last = (
            f"{100 * share:.0f} %" for share in (curve.learning[1], *(share for share, _ in curve.measured.values()))
        )
        low, high = wilson(*curve.measured[STEPS])
        rows.append([str(seed), *shares, f"{last} ({100 * low:.0f}–{100 * high:.0f})"])
    if file:
        title = "grpo: four digits to sort, held out (points) and while learning"
        draw_curves([Panel("share of right answers", curves, BAR)], title, file)
    return rows, [Figure("least_share_right", min(curve.measured[STEPS][0] for curve in curves), at_least=BAR)]


def _run(folder: Path, seed: int) -> Curve:
    """The share of right answers: in each step, to prompts that the fine-tuned model sees then, and held out."""
    _write(folder, seed)
    with running(folder) as process:
        assert process.wait(DEADLINE) == 0, (folder / "output.txt").read_text()
    lines = metric_lines(made(folder) / "solver")
    learning = {line["step"]: line["reward"] for line in lines if "reward" in line}
    held_out = {line["step"]: (line["held_out_reward"], PROMPTS) for line in lines if "held_out_reward" in line}
    return Curve(f"seed {seed}", learning, held_out)


def _write(folder: Path, seed: int) -> None:
    """The run's file, and what it reads."""
    draw = random.Random(seed)
    digits = [[draw.randrange(10) for _ in range(4)] for _ in range(ROWS)]
    chat = [{"prompt": " ".join(map(str, each)), "completion": " ".join(map(str, sorted(each)))} for each in digits]
    texts = folder / "texts"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number}.txt").write_text(
            "\n".join(f"{row['prompt']} {row['completion']}" for row in chat[number::20])
        )
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chat))
    (folder / "rewards.py").write_text(RIGHT)
    model = {"type": "llama", "config": LLAMA}
    sizes = {"sequenceLength": 128, "globalBatch": 8, "microBatch": 8, "optimizer": {"learningRate": 3e-3}}
    stages = [
        {
            "name": "texts",
            "prepare": {"sources": [{"path": str(texts)}], "tokenizer": {"vocabSize": 280}, "heldOutFraction": 0.3},
        },
        {
            "name": "chat",
            "prepare": {
                "sources": [{"path": str(folder / "chat.jsonl"), "format": "conversations"}],
                "tokenizer": {"stage": "texts"},
                "heldOutFraction": 0.1,
            },
        },
        {
            "name": "base",
            "pretrain": {"data": "texts", "model": model, "steps": 20, **sizes},
        },
        {"name": "tuned", "sft": {"data": "chat", "model": {"stage": "base"}, "steps": 260, **sizes}},
        {
            "name": "solver",
            "grpo": {
                "data": "chat",
                "model": {"stage": "tuned"},
                "steps": STEPS,
                "sequenceLength": 64,
                "globalBatch": 64,
                "microBatch": 64,
                "rollout": {"responses": 8, "maxNewTokens": 12},
                "rewards": [{"function": f"{folder / 'rewards.py'}:right"}],
                "optimizer": {"learningRate": 1e-3},
                "schedule": {"warmupSteps": 5},
                "validation": {"everySteps": EVERY, "sequences": PROMPTS},
            },
        },
    ]
    write_run(folder, stages, workers={"count": 1}, seed=seed)


if __name__ == "__main__":
    main("rewarded", __doc__.splitlines()[0], measure, plots=True)
