"""What a rank begins with: the newest of what is whole in memory and what is good in storage. The test is the agent."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engines import CURSOR, an_engine
from trainyard_api.checkpoint_settings import CheckpointSettings
from trainyard_trainer.checkpoint.memory import Found, Neighbourhood, newest
from trainyard_trainer.checkpoint.saving import Saving
from trainyard_trainer.checkpoint.store import Checkpoints
from trainyard_trainer.engine.engine import Engine
from trainyard_trainer.group import Group

ROOM = 10_000_000


class Agent:
    """Keeps the memory of one rank, and notes what becomes of it."""

    def __init__(self, reports: Path) -> None:
        self._memories = [os.memfd_create("slot") for _ in range(2)]
        self._reports = reports
        self.report_fd = os.open(reports, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def said(self) -> list[tuple[int, int, int]]:
        """Slot, step and bytes of every report."""
        reports = [json.loads(line) for line in self._reports.read_text().splitlines()]
        return [(each["slot"], each["step"], each["bytes"]) for it in reports if (each := it.get("snapshot"))]

    def environment(self, only: Callable[[int], bool] = lambda step: True) -> dict[str, str]:
        """For the next rank, with those shards whose step is wanted."""
        slots = [os.dup(memory) for memory in self._memories]
        whole = {slot: (step, size) for slot, step, size in self.said()}
        held = [
            {"rank": 0, "step": step, "attempt": 1, "bytes": size, "fd": slots[slot]}
            for slot, (step, size) in whole.items()
            if size and only(step)
        ]
        fds = ",".join(map(str, slots))
        return {"TRAINYARD_SNAPSHOT_FDS": fds, "TRAINYARD_SNAPSHOTS": json.dumps(held)}


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    agent = Agent(tmp_path / "reports")
    monkeypatch.setenv("TRAINYARD_REPORT_FD", str(agent.report_fd))
    for name, value in agent.environment().items():
        monkeypatch.setenv(name, value)
    return agent


@pytest.fixture(scope="module")
def engine(device: torch.device) -> Engine:
    return an_engine(device)


def with_room(group: Group, budget: int = ROOM) -> Group:
    return replace(group, job=group.job.model_copy(update={"memory_budget": budget}))


def save(group: Group, engine: Engine, *steps: int, kept: int | None = None) -> tuple[str, dict[str, float]]:
    """Commit a checkpoint of each step, with all state set to its number; the last trouble and gauges told."""
    told: list[tuple[str, dict[str, float]]] = []
    settings = CheckpointSettings(keep=2)
    tell = lambda checkpoint, trouble, gauges: told.append((trouble, gauges))  # noqa: E731
    checkpoints = Checkpoints(group)
    checkpoints.begin(0)
    with Saving(checkpoints, settings, engine, CURSOR, tell, kept=kept) as saving:
        for step in steps:
            for fragment in engine.fragments():
                for values in fragment.state.values():
                    values.fill_(step)
            saving.commit(step)
    return told[-1]


def found(group: Group, agent: Agent, only: Callable[[int], bool] = lambda step: True) -> Found:
    what = newest(Checkpoints(group), Neighbourhood(group, agent.environment(only)))
    assert what
    name = "model.embed_tokens.weight"
    assert what.shards.read("master", name, 0, 32).tolist() == [what.manifest.step] * 32
    return what


def test_slots_take_turns_and_each_is_told_before_it_is_overwritten_and_when_it_is_whole(
    group: Group, engine: Engine, agent: Agent
) -> None:
    _, gauges = save(with_room(group), engine, 10, 20, 30)
    size = gauges["checkpoint_buffer_bytes"] / 2
    told = [(0, 10, 0), (0, 10, size), (1, 20, 0), (1, 20, size), (0, 30, 0), (0, 30, size)]
    assert agent.said() == told
    assert gauges["checkpoint_outlives_ranks"] == 1


SEEN: dict[str, tuple[Callable[[int], bool], int, str]] = {
    "all is whole in memory": (lambda step: True, 30, "memory"),
    "memory has only an older step than storage": (lambda step: step < 30, 30, "storage"),
    "memory has nothing": (lambda step: False, 30, "storage"),
}


@pytest.mark.parametrize(("only", "step", "source"), SEEN.values(), ids=SEEN.keys())
def test_the_newest_is_taken_and_memory_before_storage(
    group: Group, engine: Engine, agent: Agent, only: Callable[[int], bool], step: int, source: str
) -> None:
    save(with_room(group), engine, 10, 20, 30)
    what = found(group, agent, only)
    assert (what.manifest.step, what.source) == (step, source)
    assert what.manifest.cursor == CURSOR


def test_what_a_roll_back_has_made_void_is_not_taken_from_memory_either(
    group: Group, engine: Engine, agent: Agent
) -> None:
    save(with_room(group), engine, 10, 20, 30)
    ended = Checkpoints(group)
    ended.begin(0)
    ended.roll_back(to_step=20, batch=31, skipped=1, faults=[31])
    second = replace(group, attempt=2)
    assert found(second, agent).manifest.step == 20
    Checkpoints(second).begin(20)
    third = replace(group, attempt=3)
    assert found(third, agent).manifest.step == 20
    assert (Checkpoints(third).to_step, Checkpoints(third).rolled_back) == (None, Checkpoints(second).rolled_back)


def test_the_oldest_is_taken_if_none_is_as_old_as_a_roll_back_asks_for(
    group: Group, engine: Engine, agent: Agent
) -> None:
    save(with_room(group), engine, 10, 20, 30)
    ended = Checkpoints(group)
    ended.begin(0)
    ended.roll_back(to_step=5, batch=31, skipped=1, faults=[31])
    assert found(replace(group, attempt=2), agent).manifest.step == 20


def test_what_storage_has_lost_is_still_in_memory_and_its_slot_is_the_last_to_be_overwritten(
    group: Group, engine: Engine, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(with_room(group), engine, 10)
    for manifest in (group.output / "checkpoints").glob("*/manifest.json"):
        manifest.unlink()
    what = found(group, agent)
    assert (what.manifest.step, what.source, what.kept) == (10, "memory", 0)
    for name, value in agent.environment().items():
        monkeypatch.setenv(name, value)
    save(with_room(group), engine, 20, kept=what.kept)
    assert [slot for slot, _, _ in agent.said()] == [0, 0, 1, 1]


def test_snapshots_that_do_not_fit_outlive_nothing_and_the_message_names_the_remedy(
    group: Group, engine: Engine, agent: Agent
) -> None:
    trouble, gauges = save(with_room(group, 1000), engine, 10)
    assert "raise pretrain.checkpoint.memoryBudget or resources.memory" in trouble
    assert gauges["checkpoint_outlives_ranks"] == 0
    assert agent.said() == [(0, 0, 0), (1, 0, 0)]
    quiet, _ = save(with_room(group, 0), engine, 20)
    assert quiet == ""
