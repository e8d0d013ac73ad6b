"""Ranks and whole workers die, and the rest go on from memory: real agents, ZeRO-2, dropout on, the same bits at the end."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from agents import AgentUnderTest, parsed
from conditions import eventually
from training import TINY, TINY_GPT2_WITH_DROPOUT, a_corpus, a_job, metric_lines, shard_digests
from warm_ranks import WarmRanks

EVERY, LAST = 60, 180
SETTINGS: dict[str, Any] = TINY | {
    "model": TINY_GPT2_WITH_DROPOUT,
    "steps": LAST,
    "checkpoint": {"everySteps": EVERY},
    "validation": {"everySteps": LAST, "sequences": 5},
    "deepspeed": {"zero_optimization": {"stage": 2}},
}
BUDGET = 10_000_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_corpus(tmp_path_factory.mktemp("prepared"))


def train(agents: list[AgentUnderTest], output: Path, corpus: Path, attempt: int, budget: int = BUDGET) -> None:
    """Have these agents train as one group, a rank each."""
    job = a_job("pretrain", output, SETTINGS, {"data": corpus}).model_copy(update={"memory_budget": budget})
    addresses = [each.address for each in agents]
    port = agents[0].state().master_port
    for worker, agent in enumerate(agents):
        place = agent.assignment(attempt=attempt, workers=len(agents), worker=worker).model_copy(
            update={"master_address": addresses[0], "master_port": port, "addresses": addresses, "job": job}
        )
        status, body = agent.put(place)
        assert status == 200, body


def resumed(agent: AgentUnderTest, attempt: int) -> tuple[int | None, str | None]:
    """From which step and from what the attempt has gone on."""
    state = agent.when(lambda state: state.attempt == attempt and state.resumed_step is not None)
    return state.resumed_step, state.restored_from


def copied(agent: AgentUnderTest) -> float:
    """Bytes of copies that the agent holds."""
    series = parsed(agent.request("/metrics", token=None)[1])
    return next(value for name, value in series.items() if name.startswith("trainyard_snapshot_copy_bytes"))


def kill_rank(agent: AgentUnderTest) -> None:
    os.kill(agent.state().ranks[0].pid, signal.SIGKILL)


def test_what_dies_is_taken_from_memory_as_long_as_every_shard_is_somewhere(start_agent, corpus, tmp_path):
    undisturbed = WarmRanks(a_job("pretrain", tmp_path / "undisturbed", SETTINGS, {"data": corpus}))
    undisturbed.succeed()
    output = tmp_path / "disturbed"
    first, second = start_agent(TRAINYARD_KIND="pretrain"), start_agent(TRAINYARD_KIND="pretrain")

    train([first, second], output, corpus, attempt=1)
    assert resumed(first, 1) == (0, None)
    eventually(lambda: copied(first), 60, "a copy of rank 1's shard", first.log.read_text)
    kill_rank(second)
    first.failed(1)
    second.failed(1)

    train([first, second], output, corpus, attempt=2)
    assert resumed(first, 2) == (EVERY, "memory")
    second.signal(signal.SIGKILL)  # with all that its memory held
    first.failed(2)

    train([first], output, corpus, attempt=3)  # another world size, from its own shard and the copy
    assert resumed(first, 3) == (EVERY, "memory")
    kill_rank(first)
    first.failed(3)

    second = start_agent(TRAINYARD_KIND="pretrain")  # a new one, which holds nothing
    train([first, second], output, corpus, attempt=4)
    assert resumed(first, 4) == (EVERY, "memory")
    assert (first.end(), second.end()) == (0, 0)
    assert shard_digests(output, LAST) == shard_digests(undisturbed.output, LAST)
    losses = {
        line["step"]: line["loss"] for line in metric_lines(output) if line["attempt"] in (1, 2, 4) and "loss" in line
    }
    assert losses == {line["step"]: line["loss"] for line in metric_lines(undisturbed.output) if "loss" in line}
