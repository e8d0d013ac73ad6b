"""Two workers learn from rewards by ppo, of what a third one draws ahead, over Ray. The pod that draws is deleted, one that
learns is, and the rank that commands both is killed: each prompt counts once, and the weights end as if nothing had happened.
"""

import json
import random

from kind.cluster import Namespace, Run
from kind.faults import kill_rank
from kind.runs import small_run

STEPS, PROMPTS = 70, 8
REWARDS = """
def right(completions, answers, **_):
    return [float(said == wanted) for said, wanted in zip(completions, answers)]
"""


def rewarded_run(namespace: Namespace, name: str) -> Run:
    """A model that names the larger of two digits learns to."""
    draw = random.Random(0)
    rows = [{"prompt": f"{a} or {b}?", "completion": f"{max(a, b)}"} for a in range(10) for b in range(10)]
    draw.shuffle(rows)
    written = "".join(json.dumps(row) + "\n" for row in rows)
    for file, text in (("pairs.jsonl", written), ("rewards.py", REWARDS)):
        (namespace.folder / file).write_text(text)
        (namespace.folder / file).chmod(0o644)
    manifest = small_run(name, workers=3, steps=10, resources={"cpu": "100m", "memory": "2500Mi"})
    corpus, base, *_ = manifest["spec"]["stages"]
    source = {"path": "pairs.jsonl", "format": "conversations"}
    pairs = {"sources": [source], "tokenizer": {"stage": "corpus"}, "heldOutFraction": 0.2}
    ppo = {
        "data": "pairs",
        "model": {"stage": "base"},
        "steps": STEPS,
        "sequenceLength": 64,
        "globalBatch": PROMPTS,
        "microBatch": 2,
        "rewards": [{"function": "rewards.py:right"}],
        "rollout": {"responses": 2, "maxNewTokens": 8, "workers": 1, "overlap": True},
        "policy": {"epochs": 2},
        "validation": {"everySteps": STEPS, "sequences": 4},
        "checkpoint": {"everySteps": 10},
        "deepspeed": {"zero_optimization": {"stage": 2}},
    }
    manifest["spec"]["stages"] = [corpus, base, {"name": "pairs", "prepare": pairs}, {"name": "solver", "ppo": ppo}]
    return namespace.apply(manifest)


def test_what_dies_while_it_draws_or_learns_loses_no_prompt_and_repeats_none(namespace: Namespace) -> None:
    run = rewarded_run(namespace, "disturbed")
    groups = []
    for worker, step in ((2, 15), (1, 30)):
        run.until_step(step, attempt=4 + len(groups), saved=10, stage="solver")
        groups.append(run.group("solver"))
        run.delete_pod(worker, "solver", force=True)
    run.until_step(45, attempt=6, saved=10, stage="solver")
    kill_rank(run, 0, "solver")
    status = run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")

    assert [(it["cause"], it["tier"]) for it in status["recoveries"]] == [
        ("PodDeleted", "pod"),
        ("PodDeleted", "pod"),
        ("ProcessFailed", "ranks"),
    ]
    assert {worker for worker, pod in run.group("solver").items() if pod != groups[0][worker]} == {1, 2}
    last = {row["step"]: (row["position"], row["sequences"]) for row in run.losses("solver")}
    assert [last[step] for step in sorted(last)] == [(PROMPTS * step, PROMPTS) for step in range(STEPS)]

    calm = rewarded_run(namespace, "calm")
    calm.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")
    assert run.trained("solver") == calm.trained("solver")
