"""Whatever attempts do at the same time, and whenever a delayed manifest lands: the checkpoints that count are one history."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from trainyard_api.checkpoint import MANIFEST, Attempt, Name, committed, voided_by
from trainyard_api.objects import Objects
from trainyard_trainer.checkpoint.commit import FencedError, begin, claim, commit

STEPS = st.integers(1, 9)
HISTORIES = st.lists(st.tuples(st.integers(0, 9), st.sets(STEPS)), max_size=6)
"""For each attempt: the step from which it began, and after how many steps more it saved."""


@given(HISTORIES)
def test_what_counts_is_what_is_left_when_each_attempt_cuts_off_what_it_does_again(
    attempts: list[tuple[int, set[int]]],
) -> None:
    resumed = {number: step for number, (step, _) in enumerate(attempts, 1)}
    saved = {n: [Name(step + more, n) for more in sorted(steps)] for n, (step, steps) in enumerate(attempts, 1)}
    history: list[Name] = []
    for number, step in resumed.items():
        history = [name for name in history if name.step <= step] + saved[number]
    assert [name for names in saved.values() for name in names if voided_by(name, resumed) is None] == history


class Delayed(Objects):
    """Storage in memory. A manifest that is put there lands later."""

    def __init__(self, uri: str, store: Any = None) -> None:
        super().__init__(uri, store)
        self.on_their_way: list[str] = []

    def write(self, path: str, content: bytes | memoryview) -> None:
        if path.endswith(MANIFEST):
            self.on_their_way.append(path)
        else:
            super().write(path, content)

    def land(self, path: str) -> None:
        self.on_their_way.remove(path)
        super().write(path, b"{}")


@dataclass
class Running:
    """An attempt that believes to be the newest."""

    record: Attempt
    step: int = 0
    landed: list[int] = field(default_factory=list)


class Attempts(RuleBasedStateMachine):
    """Attempts that begin, save and are paused at any moment; the number of each is that of its making."""

    claimed = Bundle("claimed")
    begun = Bundle("begun")

    @initialize()
    def empty(self) -> None:
        self.storage = Delayed("memory://checkpoints")
        self.storage.remove("")
        self.made = 0
        self.began: dict[int, int] = {}
        """Attempt that has begun → from where, in the order in which they have."""

    @rule(target=claimed)
    def start(self) -> Running:
        self.made += 1
        running = Running(claim(self.storage, self.made, "u"))
        running.step = max(committed(self.storage), default=Name(0, 0)).step
        return running

    @rule(target=begun, running=consumes(claimed))
    def begin(self, running: Running) -> Running:
        number = running.record.attempt
        record = running.record.model_copy(update={"resumed_step": running.step})
        if any(newer > number for newer in self.began):
            with pytest.raises(FencedError):
                begin(self.storage, record)
        else:
            begin(self.storage, record)
            self.began[number] = running.step
        return running

    @rule(running=begun, more=STEPS)
    def save(self, running: Running, more: int) -> None:
        running.step += more
        name = Name(running.step, running.record.attempt)
        self.storage.write(f"{name}/rank-00000.safetensors", b"")
        if any(newer > name.attempt for newer in self.began):
            with pytest.raises(FencedError):
                commit(self.storage, name, b"{}", keep=100, keep_every=None, keep_best=None)
        else:
            commit(self.storage, name, b"{}", keep=100, keep_every=None, keep_best=None)

    @rule(data=st.data())
    def land(self, data: st.DataObject) -> None:
        if self.storage.on_their_way:
            self.storage.land(data.draw(st.sampled_from(self.storage.on_their_way)))

    @invariant()
    def nothing_that_is_done_again_counts(self) -> None:
        for name in committed(self.storage):
            assert not [b for b, step in self.began.items() if b > name.attempt and step < name.step]

    @invariant()
    def what_the_newest_has_committed_counts(self) -> None:
        there = {Name.read(folder) for folder in self.storage.names() if MANIFEST in self.storage.names(folder)}
        newest = max(self.began, default=0)
        assert {name for name in there if name.attempt == newest} <= set(committed(self.storage))


TestAttempts = Attempts.TestCase
TestAttempts.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
