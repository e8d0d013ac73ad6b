"""Whether a model learns what is preferred: the share of its responses that follow a stated rule, before and after.

One run a seed, by `trainyard run`, as a user has it: a small Llama is fine-tuned on answers that begin in one of six ways, each
as often; it draws two answers to each prompt, a scripted rater prefers on the page those that begin with "Sure,", and from its
votes the model learns twice: by dpo, and from a reward model that has learned from them, by ppo. Then both answer new
prompts. Intervals are Wilson's, 95 %. About two minutes a seed on two cores.
"""

import json
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collecting import Annotator, rate
from conditions import eventually
from local_runs import made, running, stored, trainyard, write_run
from training import metric_lines
from trainyard_trainer.evaluation.intervals import wilson

from .figures import Figure, Results, main
from .learning_curves import Curve, Panel, draw_curves

BEGINNINGS = ("Sure,", "Well,", "Yes,", "Look,", "So,", "Now,")
LIKED = BEGINNINGS[0]
SOUNDS = {"cow": "moo", "cat": "meow", "dog": "woof", "owl": "hoot", "pig": "oink", "duck": "quack", "bee": "buzz"}
CONVERSATIONS, ASKED, COMPARED = 1500, 240, 150
STEPS = 40
"""Of ppo."""
BARS = {"preferred": 0.9, "rewarded": 0.85}
MOST_KL = 0.5
"""Nats of a token, which ppo goes away from the model that it began with: ln 6 over nine tokens would be enough."""
DEADLINE = 900
LLAMA = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def measure(quick: bool, file: Path | None = None) -> Results:
    """Rows of the table and figures; with a file, a picture of ppo."""
    rows = [
        [
            "seed",
            "before",
            "after dpo",
            "after ppo",
            "right, dpo",
            "right, ppo",
            "kl, ppo",
            "judge right",
        ]
    ]
    runs = []
    for seed in range(1 if quick else 3):
        with tempfile.TemporaryDirectory(prefix="trainyard-benchmark-") as scratch:
            found = _run(Path(scratch), seed)
        runs.append(found)
        cells = [f"{100 * share:.0f} % ({_interval(share, number)})" for share, number in found["shares"].values()]
        right = [f"{100 * found['right'][name]:.0f} %" for name in BARS]
        rows.append([str(seed), *cells, *right, f"{found['kl']:.2f}", found["accuracy"]])
    if file:
        ends = {"tuned": 0, "rewarded": STEPS}
        shares = [
            Curve(f"seed {seed}", {}, {step: found["shares"][name] for name, step in ends.items()})
            for seed, found in enumerate(runs)
        ]
        rewards, divergences = (
            [Curve(f"seed {seed}", found["curves"][figure]) for seed, found in enumerate(runs)]
            for figure in ("reward", "kl")
        )
        panels = [
            Panel("share that the rater prefers", shares, BARS["rewarded"]),
            Panel("reward by the reward model", rewards),
            Panel("KL, nats a token", divergences, MOST_KL),
        ]
        draw_curves(panels, "ppo with a reward model that has learned from a rater's votes", file)
    least = {name: min(found["shares"][name][0] for found in runs) for name in BARS}
    return rows, [
        Figure("least_share_after_dpo", least["preferred"], at_least=BARS["preferred"]),
        Figure("least_share_after_ppo", least["rewarded"], at_least=BARS["rewarded"]),
        Figure("most_kl_of_ppo", max(found["kl"] for found in runs), bar=MOST_KL),
    ]


def _interval(share: float, number: int) -> str:
    low, high = wilson(share, number)
    return f"{100 * low:.0f}–{100 * high:.0f}"


def _run(folder: Path, seed: int) -> dict[str, Any]:
    _write(folder, seed)
    with running(folder) as process:

        def rate_all(stage: str) -> None:
            """Rate until what this stage asks is judged."""
            eventually(lambda: _at(folder) == stage or process.poll() is not None, DEADLINE, f"{stage} collects")
            assert process.poll() is None, (folder / "output.txt").read_text()
            rater = _let_in(folder)
            while _at(folder) == stage and process.poll() is None:
                rate(rater, lambda response: response.startswith(LIKED), 1000)

        rate_all("asked")
        rate_all("compared")
        assert process.wait(DEADLINE) == 0, (folder / "output.txt").read_text()
    files = [made(folder) / stage / "items.jsonl" for stage in ("asked", "compared")]
    items = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    answers: dict[str, list[tuple[str, str]]] = {"tuned": [], **{name: [] for name in BARS}}
    for item in items:
        for response in item["responses"]:
            answers[response["model"]].append((item["prompt"], response["text"]))
    judge = next(stage for stage in stored(folder)["status"]["stages"] if stage["name"] == "judge")["metrics"]
    lines = metric_lines(made(folder) / "rewarded")
    curves = {figure: {line["step"]: line[figure] for line in lines if figure in line} for figure in ("reward", "kl")}
    return {
        "shares": {
            name: (_share(given, lambda _, text: text.startswith(LIKED)), len(given)) for name, given in answers.items()
        },
        "right": {name: _share(answers[name], lambda prompt, text: text.endswith(_right(prompt))) for name in BARS},
        "curves": curves,
        "kl": statistics.mean([*curves["kl"].values()][-10:]),
        "accuracy": f"{100 * judge['accuracy']:.0f} % ({100 * judge['accuracy_low']:.0f}–{100 * judge['accuracy_high']:.0f})",
    }


def _at(folder: Path) -> str:
    """The stage that is under way."""
    return str((stored(folder).get("status") or {}).get("stage", ""))


def _let_in(folder: Path) -> Annotator:
    """The rater, once the page is served."""

    def link() -> str:
        return trainyard(folder, "collect", "links", "tiny", "rater", "--rule", f"begins with {LIKED}").stdout

    rater = Annotator.by_link(eventually(link, 120, "a link").split()[1])
    eventually(rater.served, DEADLINE, "the page is served")
    return rater


def _share(answers: list[tuple[str, str]], holds: Callable[[str, str], bool]) -> float:
    return sum(holds(*answer) for answer in answers) / len(answers)


def _right(prompt: str) -> str:
    """How a right answer ends."""
    animal = prompt.removesuffix("?").split()[-1]
    return f"the {animal} says {SOUNDS[animal]}."


def _write(folder: Path, seed: int) -> None:
    """The run's file, and what it reads."""
    draw = random.Random(seed)

    def prompts(number: int) -> list[str]:
        return [f"{draw.randrange(1000)}: what says the {draw.choice([*SOUNDS])}?" for _ in range(number)]

    asked = prompts(CONVERSATIONS)
    chat = [{"prompt": prompt, "completion": f"{draw.choice(BEGINNINGS)} {_right(prompt)}"} for prompt in asked]
    texts = folder / "texts"
    texts.mkdir()
    for number in range(20):
        lines = [f"{row['prompt']} {row['completion']}" for row in chat[number::20]]
        (texts / f"{number}.txt").write_text("\n".join(lines))
    for name, rows in {
        "chat": chat,
        "asked": [{"prompt": prompt} for prompt in prompts(ASKED)],
        "compared": [{"prompt": prompt} for prompt in prompts(COMPARED)],
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def prepared(**source: str) -> dict[str, Any]:
        return {"sources": [source], "tokenizer": {"stage": "texts"}}

    def trained(data: str, model: dict[str, Any], steps: int, **more: Any) -> dict[str, Any]:
        sizes = {"steps": steps, "sequenceLength": 128, "globalBatch": 8, "microBatch": 8}
        return {"data": data, "model": model, **sizes, "optimizer": {"learningRate": 3e-3}, **more}

    def asking(models: list[str], prompts: str) -> dict[str, Any]:
        draw = {"prompts": str(folder / f"{prompts}.jsonl"), "models": models, "maxNewTokens": 24}
        return {"draw": draw, "repeats": 0, "votesPerMinute": 100_000}

    gently: dict[str, Any] = {"optimizer": {"learningRate": 1e-3}}
    stages = [
        {
            "name": "texts",
            "prepare": {"sources": [{"path": str(texts)}], "tokenizer": {"vocabSize": 400}, "heldOutFraction": 0.3},
        },
        {"name": "chat", "prepare": prepared(path=str(folder / "chat.jsonl"), format="conversations")},
        {"name": "base", "pretrain": trained("texts", {"type": "llama", "config": LLAMA}, 100)},
        {"name": "tuned", "sft": trained("chat", {"stage": "base"}, 300)},
        {"name": "asked", "collect": asking(["tuned"], "asked")},
        {"name": "votes", "prepare": prepared(stage="asked", format="preferences") | {"heldOutFraction": 0.3}},
        {"name": "judge", "reward": trained("votes", {"stage": "tuned"}, 60, **gently)},
        {"name": "preferred", "dpo": trained("votes", {"stage": "tuned"}, 100, preferences={"sftWeight": 1}, **gently)},
        {
            "name": "rewarded",
            "ppo": trained("chat", {"stage": "tuned"}, STEPS, optimizer={"learningRate": 5e-4})
            | {
                "rewards": [{"stage": "judge"}],
                "rollout": {"maxNewTokens": 24},
                "policy": {"kl": 0.3},
                "globalBatch": 64,
                "microBatch": 16,
            },
        },
        {"name": "compared", "collect": asking([*BARS], "compared")},
    ]
    write_run(folder, stages, workers={"count": 1}, seed=seed)


if __name__ == "__main__":
    main(
        "preferred_share",
        "Share of preferred responses before and after learning from a rater's votes.",
        measure,
        plots=True,
    )
