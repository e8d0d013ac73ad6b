"""A model that seldom names the larger of two digits learns to, from a function that says whether it is right: to the same bits
after a kill. What a function can't reward is left out.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from preparing import put, run_prepare
from training import TINY, a_job, committed_steps, metric_lines, shard_digests
from trainyard_api.protocol import Job
from trainyard_operator.cli.plot_rewards import draw_rewards, read_rewards
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.checkpoint.trained import load_trained
from trainyard_trainer.data.objectives.rewards import Rewards
from trainyard_trainer.data.special_tokens import special_tokens
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.reinforcement.scorers import RewardModel, load_reward_model
from warm_ranks import WarmRanks

LLAMA = {
    "type": "llama",
    "config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
}
FUNCTIONS = """
def right(completions, answers, **_):
    return [float(said == wanted) for said, wanted in zip(completions, answers)]

def unsure(completions, answers, **_):
    return [None if said.startswith("1") else float(said == wanted) for said, wanted in zip(completions, answers)]

def raises(**_):
    raise RuntimeError("no idea")

def try_again(prompts, turns, answers, **_):
    return [None if said[-1] == wanted else "no" for said, wanted in zip(turns, answers)]

def no_text(turns, **_):
    return ["no" if len(said[-1]) == 1 and said[-1] < "5" else 3 for said in turns]

def in_the_end(turns, answers, **_):
    return [float(said[-1] == wanted) for said, wanted in zip(turns, answers)]
"""
CPU = torch.device("cpu")
LAST = 40
GRPO: dict[str, Any] = {
    "data": "pairs",
    "model": {"stage": "tuned"},
    "steps": LAST,
    "sequenceLength": 64,
    "globalBatch": 16,
    "microBatch": 8,
    "rollout": {"responses": 8, "maxNewTokens": 4},
    "rewards": [{"function": "functions.py:right"}],
    "optimizer": {"learningRate": 3e-3},
    "schedule": {"warmupSteps": 2},
    "validation": {"everySteps": 20, "sequences": 16},
    "checkpoint": {"everySteps": 10},
    "deepspeed": {"zero_optimization": {"stage": 1}},
}

DIALOGUES = {
    "rollout": {
        "responses": 8,
        "maxNewTokens": 80,
        "environment": {"function": "functions.py:try_again", "turns": 3},
    },
    "sequenceLength": 128,
    "rewards": [{"function": "functions.py:in_the_end"}],
}
"""Whoever is wrong may try again."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of digits with the larger one, and a model that was taught a little."""
    folder, draw = tmp_path_factory.mktemp("storage"), random.Random(0)
    pairs = [{"prompt": f"{a} or {b}?", "completion": f"{max(a, b)}"} for a in range(10) for b in range(10)] * 4
    draw.shuffle(pairs)
    put(folder, {"pairs.jsonl": "".join(json.dumps(row) + "\n" for row in pairs), "functions.py": FUNCTIONS})
    put(
        folder / "texts",
        {f"{n}.txt": "\n".join(f"{row['prompt']} {row['completion']}" for row in pairs[n::8]) for n in range(8)},
    )
    run_prepare(folder, {"path": "texts"}, out="corpus", tokenizer={"vocabSize": 300})
    run_prepare(folder, {"path": "pairs.jsonl", "format": "conversations"}, out="pairs", tokenizer={"stage": "corpus"})
    taught = TINY | {"sequenceLength": 64, "model": LLAMA, "steps": 40, "optimizer": {"learningRate": 3e-3}}
    WarmRanks(a_job("pretrain", folder / "base", taught, {"data": folder / "corpus"}), 1).succeed()
    taught |= {"data": "pairs", "model": {"stage": "base"}, "steps": 120}
    inputs = {"data": folder / "pairs", "model.stage": folder / "base"}
    WarmRanks(a_job("sft", folder / "tuned", taught, inputs), 1).succeed()
    return folder


@pytest.fixture(scope="module")
def judge(storage: Path) -> Path:
    """A model that has learned that the larger is better."""
    rows = [
        {"prompt": f"{a} or {b}?", "chosen": f"{max(a, b)}", "rejected": f"{min(a, b)}"}
        for a in range(10)
        for b in range(10)
        if a != b
    ]
    put(storage, {"preferences.jsonl": "".join(json.dumps(row) + "\n" for row in rows * 2)})
    source = {"path": "preferences.jsonl", "format": "preferences"}
    run_prepare(storage, source, out="preferences", tokenizer={"stage": "corpus"})
    settings = TINY | {"data": "preferences", "model": {"stage": "tuned"}, "sequenceLength": 64, "steps": 60}
    settings |= {"optimizer": {"learningRate": 2e-3}, "heads": 2}
    inputs = {"data": storage / "preferences", "model.stage": storage / "tuned"}
    WarmRanks(a_job("reward", storage / "judge", settings, inputs), 1).succeed()
    return storage / "judge"


PPO = GRPO | {
    "rollout": {"maxNewTokens": 4},
    "globalBatch": 64,
    "microBatch": 16,
    "policy": {"epochs": 2, "miniBatches": 2, "kl": 0.02, "klTarget": 0.1, "klHorizon": 2000},
    "optimizer": {"learningRate": 1e-3},
}


def rewarded(storage: Path, name: str, kind: str = "grpo", **settings: Any) -> Job:
    inputs = {"data": storage / "pairs", "model.stage": storage / "tuned"}
    return a_job(kind, storage / name, (PPO if kind == "ppo" else GRPO) | settings, inputs)


def means(folder: Path, figure: str) -> dict[int, float]:
    return {line["step"]: line[figure] for line in metric_lines(folder) if figure in line}


@pytest.fixture(scope="module", params=["grpo", "ppo"])
def learned(storage: Path, request: pytest.FixtureRequest) -> Path:
    ranks = WarmRanks(rewarded(storage, request.param, request.param))
    ranks.succeed()
    return ranks.output


def test_it_learns_what_is_rewarded(learned: Path) -> None:
    reward, held_out = means(learned, "reward"), means(learned, "held_out_reward")
    before = sum(reward[step] for step in range(1, 6)) / 5
    after = sum(reward[step] for step in range(LAST - 4, LAST + 1)) / 5
    assert after > before + 0.2, (before, after, reward)
    assert held_out[LAST] > held_out[20]
    made = read_artifact(learned, learned.name)
    assert made["details"]["objective"] == "Rollouts"
    assert 1 <= means(learned, "response_tokens")[LAST] <= 4
    samples = [json.loads(line) for line in (learned / "samples.jsonl").read_text().splitlines()]
    assert [each["step"] for each in samples] == [20, 40]
    assert {each["reward"] for each in samples[0]["best"]} == {1}
    assert {each["reward"] for each in samples[0]["worst"]} == {0}
    assert isinstance(samples[1]["hints"], list)
    events = b"".join(each.read_bytes() for each in learned.glob("**/*tfevents*"))
    assert b"samples/best" in events
    assert b"| reward | prompt | completion | answer |" in events
    assert 0 <= means(learned, "repetition")[LAST] <= 1
    assert all(" or " in each["prompt"] and each["completion"] == each["answer"] for each in samples[0]["best"])


def test_its_curves_are_drawn(learned: Path, tmp_path: Path) -> None:
    figures = read_rewards((learned / "metrics.jsonl").read_text())
    assert sorted(figures["held_out_reward"]) == [20, 40]
    assert len(figures["reward"]) == len(figures["reward_deviation"]) == LAST
    assert ("explained_variance" in figures, "kl" in figures) == ((learned.name == "ppo"),) * 2
    draw_rewards(figures, "tiny: solver", tmp_path / "rewards.png")
    assert (tmp_path / "rewards.png").read_bytes().startswith(b"\x89PNG")


def test_killed_it_goes_on_to_the_same_bits(storage: Path, learned: Path) -> None:
    job = rewarded(storage, f"{learned.name}-killed", learned.name)
    ranks = WarmRanks(job, hold="trainyard_trainer.stages.training:learning_rate", at_call=15)
    ranks.until_held()
    for process in ranks.processes:
        process.kill()
    ranks.wait(20)
    assert committed_steps(ranks.output)[-1] == 10
    WarmRanks(job, attempt=2).succeed()
    assert shard_digests(ranks.output, LAST) == shard_digests(learned, LAST)


SPLITS: dict[str, tuple[int, dict[str, Any]]] = {
    "by one rank at once": (1, {"microBatch": 16}),
    "by one rank in four": (1, {"microBatch": 4}),
    "by two ranks, ZeRO 3": (2, {"deepspeed": {"zero_optimization": {"stage": 3}}}),
}


@pytest.mark.parametrize(
    ("kind", "settings"), [("grpo", {}), ("ppo", {}), ("grpo", DIALOGUES)], ids=["grpo", "ppo", "dialogues"]
)
def test_a_batch_is_worth_the_same_however_it_is_split(
    storage: Path, kind: str, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    def first_step(name: str, ranks: int, changes: dict[str, Any]) -> dict[str, float]:
        once = {"policy": {"epochs": 1, "kl": 0.02}, "steps": 1, "globalBatch": 16, "microBatch": 8, **changes}
        split = WarmRanks(rewarded(storage, f"{request.node.name} {name}", kind, **settings, **once), ranks)
        split.succeed()
        figures = ("loss", "reward", "response_tokens", "grad_norm", "entropy", "held_out_reward")
        return {figure: means(split.output, figure)[1] for figure in figures}

    whole = first_step("by two ranks", 2, {})
    assert 0 < whole["reward"] < 1
    for name, split in SPLITS.items():
        assert first_step(name, *split) == pytest.approx(whole, rel=1e-4, abs=1e-6), name


def test_what_has_not_moved_has_ratios_of_1_in_all_updates(storage: Path) -> None:
    still = {"steps": 1, "optimizer": {"learningRate": 1e-12}, "policy": {"epochs": 2, "miniBatches": 2}}
    ranks = WarmRanks(rewarded(storage, "still", "ppo", **still))
    ranks.succeed()
    found = {figure: means(ranks.output, figure)[1] for figure in ("ratio", "clipped", "kl", "mismatch")}
    assert found == pytest.approx({"ratio": 1, "clipped": 0, "kl": 0, "mismatch": 0}, abs=1e-5)


def test_a_model_that_judges_rewards_and_the_critic_begins_as_it(storage: Path, judge: Path) -> None:
    inputs = {name: storage / folder for name, folder in (("data", "pairs"), ("model.stage", "tuned"))}
    settings = PPO | {"rewards": [{"stage": "judge"}], "steps": 2}
    job = a_job("ppo", storage / "judged", settings, {**inputs, "rewards[0].stage": judge})
    ranks = WarmRanks(job)
    ranks.succeed()
    trained = load_trained(ranks.output)
    begun = load_trained(storage / "tuned")
    assert trained.model.state_dict().keys() == begun.model.state_dict().keys()


def test_adapters_learn_against_the_model_without_them(storage: Path) -> None:
    settings = {"model": {"stage": "tuned", "lora": {"rank": 4}}, "steps": 3, "policy": {"kl": 0.1, "epochs": 2}}
    ranks = WarmRanks(rewarded(storage, "adapted", **settings))
    ranks.succeed()
    away = means(ranks.output, "kl")
    assert away[1] == pytest.approx(0, abs=0.01)
    assert away[3] != 0
    assert (
        load_trained(ranks.output).model.state_dict().keys()
        == load_trained(storage / "tuned").model.state_dict().keys()
    )


def test_a_response_that_was_chosen_is_given_more(storage: Path, judge: Path) -> None:
    tokenizer = storage / "pairs/tokenizer"
    rows = Rewards(64, special_tokens(tokenizer).begin).open(storage / "preferences/held-out")
    model = RewardModel(load_reward_model(judge, tokenizer, "field"), special_tokens(tokenizer).begin, CPU)
    pairs = [
        [tokens.window(each.start, each.length) for tokens, each in rows.pieces(n)] for n in range(len(rows.margins))
    ]
    margins = [chosen - rejected for chosen, rejected in (model([each.tolist() for each in pair]) for pair in pairs)]
    assert sum(margin > 0 for margin in margins) / len(margins) == pytest.approx(
        read_artifact(judge, "reward")["metrics"]["accuracy"], abs=1e-9
    )


def test_a_model_that_reads_other_tokens_is_no_judge(storage: Path, judge: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(PermanentError, match=r"ppo.rewards\[0\].stage: the reward model was trained on other tokens"):
        load_reward_model(judge, tmp_path, "ppo.rewards[0].stage")


def test_prompts_whose_responses_are_all_alike_are_passed_over_the_same_however_it_is_split(storage: Path) -> None:
    settings = {"steps": 4, "globalBatch": 8, "microBatch": 4, "policy": {"maxBatches": 4}}
    settings |= {"rollout": {"responses": 2, "maxNewTokens": 4}, "checkpoint": {"everySteps": 2}}
    whole = WarmRanks(rewarded(storage, "sampled", **settings), 1)
    whole.succeed()
    assert set(means(whole.output, "informative").values()) == {1.0}
    drawn, places = means(whole.output, "drawn_prompts"), means(whole.output, "position")
    assert max(drawn.values()) > 8
    assert all(places[step + 1] == places[step] + drawn[step] for step in range(1, 4))

    split = WarmRanks(rewarded(storage, "sampled by two", **settings), 2)
    split.succeed()
    for figure in ("position", "reward", "loss", "grad_norm"):
        assert means(split.output, figure) == pytest.approx(means(whole.output, figure), rel=1e-3, abs=1e-6), figure


def test_in_dialogues_what_was_drawn_is_what_is_learned(storage: Path) -> None:
    """Training reads each token after all that was heard before it: it finds it as likely as it was when it was drawn."""
    ranks = WarmRanks(rewarded(storage, "in dialogues", **DIALOGUES, optimizer={"learningRate": 1e-3}))
    ranks.succeed()
    assert max(means(ranks.output, "mismatch").values()) < 1e-4
    reward, tokens = means(ranks.output, "reward"), means(ranks.output, "response_tokens")
    assert sum(reward[step] for step in range(31, 41)) > sum(reward[step] for step in range(1, 11))
    samples = json.loads((ranks.output / "samples.jsonl").read_text().splitlines()[-1])
    tried_again = [each["completion"] for each in samples["best"] + samples["worst"] if "|user|" in each["completion"]]
    assert tried_again
    assert all("<|user|>\nno\n<|assistant|>\n" in each for each in tried_again)
    assert max(tokens.values()) < 12, "what is heard is no token of the response's"


def test_what_an_environment_can_not_answer_is_left_out(storage: Path) -> None:
    def dialogues(function: str) -> dict[str, Any]:
        environment = {"function": f"functions.py:{function}", "turns": 2}
        return DIALOGUES | {"rollout": {"responses": 8, "maxNewTokens": 80, "environment": environment}, "steps": 1}

    some = WarmRanks(rewarded(storage, "no text", **dialogues("no_text")), 1)
    some.succeed()
    assert 0 < means(some.output, "left_out")[1] < 128
    none = WarmRanks(rewarded(storage, "speechless", **dialogues("raises")), 1)
    assert none.wait() == [10]
    assert "can be rewarded: grpo.rollout.environment.function: RuntimeError: no idea" in none.said()
    nowhere = WarmRanks(rewarded(storage, "nobody", **dialogues("nobody")), 1)
    assert nowhere.wait() == [10]
    assert "grpo.rollout.environment.function: " in nowhere.said()
    assert "functions.py has no function nobody" in nowhere.said()


def test_what_can_not_be_rewarded_is_left_out(storage: Path) -> None:
    few = {
        "steps": 2,
        "rewards": [{"function": "functions.py:unsure"}, {"function": "functions.py:right", "weight": 0.5}],
    }
    ranks = WarmRanks(rewarded(storage, "unsure", **few), 1)
    ranks.succeed()
    assert 0 <= means(ranks.output, "reward")[2] <= 1.5
    assert 0 < means(ranks.output, "left_out")[2] < 128
    assert "can't be rewarded and are left out" in ranks.said()
    gauges = {name for report in ranks.reports() for name in report.get("metrics", {})}
    assert {"step_generate_seconds", "step_score_seconds", "step_backward_seconds"} <= gauges


def test_where_none_can_be_rewarded_the_run_fails_with_the_reason(storage: Path) -> None:
    ranks = WarmRanks(rewarded(storage, "helpless", rewards=[{"function": "functions.py:raises"}]))
    assert ranks.wait() == [10, 10]
    said = "grpo.rewards: none of 128 responses can be rewarded: functions.py:raises: "
    assert said in ranks.said()
    assert "no idea" in ranks.said()


def test_a_function_that_is_not_there_is_named(storage: Path) -> None:
    ranks = WarmRanks(rewarded(storage, "nowhere", rewards=[{"function": "functions.py:wrong"}]), 1)
    assert ranks.wait() == [10]
    assert "grpo.rewards[0].function: " in ranks.said()
    assert "functions.py has no function wrong" in ranks.said()
