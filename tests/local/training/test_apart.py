"""Workers that draw beside those that learn, over Ray: what is learned is the same to the bit, also if what draws is killed;
and what was drawn ahead is in the checkpoint.
"""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from conditions import eventually
from drawing_apart import HELD, LAST, a_tuned_model, models_that_draw, start
from training import committed_steps, metric_lines, shard_digests

pytestmark = pytest.mark.timeout(900)  # Ray takes 15 s to start alone, and a minute beside other tests


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    a_tuned_model(folder)
    return folder


def test_what_is_drawn_apart_is_learned_to_the_same_bits_whatever_goes_wrong_there(storage: Path) -> None:
    together = start(storage, "together", workers=0)
    together.succeed()
    broken = {"bad": {"weights": [4]}, "rollout": {"maxMismatch": 0.5}}
    apart = start(storage, "apart", hold=HELD, at_call=8, **broken)
    apart.until_held(0, 1)
    [model] = models_that_draw(apart)
    model.kill()
    apart.release(0, 1)
    apart.succeed()
    assert apart.said().count("grpo.rollout.maxMismatch: log-probabilities in training are") == 2, apart.said()
    assert shard_digests(apart.output, LAST) == shard_digests(together.output, LAST)
    lines = [line for line in metric_lines(apart.output) if "mismatch" in line]
    assert [line["position"] for line in lines] == [8 * step for step in range(LAST)]
    assert max(line["mismatch"] for line in lines) < 1e-5
    gauges = {name for report in apart.reports() for name in report.get("metrics", {})}
    assert {"step_generate_seconds", "step_push_seconds"} <= gauges
    held_out = [
        {line["step"]: line["held_out_reward"] for line in metric_lines(each.output) if "held_out_reward" in line}
        for each in (apart, together)
    ]
    assert held_out[0] == held_out[1]
    assert sorted(held_out[0]) == [6, 12]


OVERLAPPING = {
    "steps": 9,
    "rollout": {
        "responses": 2,
        "maxNewTokens": 48,
        "overlap": True,
        "environment": {"function": "rewards.py:once_more", "turns": 2},
    },
    "sequenceLength": 128,
    "policy": {"kl": 0.05, "epochs": 2},
}
"""In dialogues, too."""


def test_what_was_drawn_ahead_survives_that_all_stop_with_one_and_the_death_of_all(storage: Path) -> None:
    last_step = OVERLAPPING["steps"]
    calm = start(storage, "calm", "ppo", **OVERLAPPING)
    calm.succeed()
    lines = [line for line in metric_lines(calm.output) if "mismatch" in line]
    assert lines[0]["mismatch"] < 1e-5 < lines[1]["mismatch"]
    last = json.loads((calm.output / "samples.jsonl").read_text().splitlines()[-1])
    assert any("Why?" in each["completion"] for each in last["best"] + last["worst"])

    stopped = start(storage, "disturbed", "ppo", **OVERLAPPING, hold=HELD, at_call=3)
    stopped.until_held(0, 1)
    os.kill(stopped.processes[2].pid, signal.SIGTERM)  # as if the node of what draws was drained
    stopped.release(0, 1)
    assert stopped.wait() == [20, 20, 20], stopped.said()
    [stopped_at] = committed_steps(stopped.output)

    killed = start(storage, "disturbed", "ppo", **OVERLAPPING, attempt=2, hold=HELD, at_call=4)
    killed.until_held(0, 1)
    below = [each for it in killed.processes for each in psutil.Process(it.pid).children(recursive=True)]
    for process in killed.processes:
        process.kill()
    killed.wait(20)
    assert stopped_at <= committed_steps(killed.output)[-1] < last_step
    eventually(lambda: not any(each.is_running() for each in below), 120, "Ray ends with its ranks")
    start(storage, "disturbed", "ppo", **OVERLAPPING, attempt=3).succeed()
    assert shard_digests(killed.output, last_step) == shard_digests(calm.output, last_step)


def test_what_is_wrong_with_a_reward_where_others_draw_is_named(storage: Path) -> None:
    ranks = start(storage, "nowhere", rewards=[{"function": "rewards.py:high"}])
    assert ranks.wait()[0] == 10, ranks.said()
    assert "grpo.rewards[0].function: " in ranks.said()
    assert "rewards.py has no function high" in ranks.said()
