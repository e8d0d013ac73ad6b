"""Ranks that have gone silent: where they are is found out from outside, stored, and told."""

import json
import os
import signal

from agents import until_gone
from conditions import eventually

WORKS = 'group.report(beat={"activity": "working", "step": 7})\n'
HANGS = f"""{WORKS}
import ctypes, os, time

def load():
    ctypes.CDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)

def exchange():
    time.sleep(1000)

load() if group.rank else exchange()
"""
FAILS = "from trainyard_trainer import errors\nraise errors.RetryableError('enough')"


def stacks(agent, attempt: int = 1) -> dict[str, str]:
    """What is stored, by file."""
    folder = agent.storage / "team" / "tiny" / "base" / "stacks" / f"attempt-{attempt}"
    return {file.name: file.read_text() for file in folder.glob("*")}


def test_all_ranks_are_found_where_they_hang_also_in_native_code_and_in_each_attempt_anew(agent):
    agent.assign(HANGS, ranks=2, hang_seconds=1)
    state = agent.when(lambda state: state.hang)
    assert set(state.hang.silent) & {0, 1}
    assert {(tuple(place.ranks), place.state, place.where.split()[0]) for place in state.hang.places} == {
        ((0,), "runs", "exchange"),
        ((1,), "runs", "load"),
    }
    assert state.hang.stacks == f"file://{agent.storage}/team/tiny/base/stacks/attempt-1"
    stored = stacks(agent)
    assert stored.keys() == {"rank-0.txt", "rank-1.txt"}
    assert "working after step 7, silent for " in stored["rank-1.txt"]
    assert "in load\n" in stored["rank-1.txt"]
    assert "Thread 0x" in stored["rank-1.txt"], "there is a thread that waits for SIGTERM"

    agent.assign(HANGS, attempt=2, hang_seconds=1)
    until_gone([rank.pid for rank in state.ranks])
    assert agent.when(lambda state: state.attempt == 2 and state.ranks).hang is None
    assert agent.when(lambda state: state.hang).hang.silent == [0]
    assert stacks(agent, 2).keys() == {"rank-0.txt"}


def test_of_a_rank_that_was_stopped_the_kernel_tells(agent):
    agent.assign(f"{WORKS}import time\nprint([], flush=True)\ntime.sleep(1000)", hang_seconds=2)
    eventually(lambda: [] in agent.said(), 30, "a rank that has said that it works", agent.log.read_text)
    os.kill(agent.state().ranks[0].pid, signal.SIGSTOP)
    [place] = agent.when(lambda state: state.hang).hang.places
    assert (place.ranks, place.state) == ([0], "unresponsive")
    assert place.where.startswith("stopped (kernel state T")
    assert "no answer" in stacks(agent)["rank-0.txt"]


LIVES = """
import time
if group.rank < 2:
    for n in range(20):
        time.sleep(0.1)
        group.report(**[{"beat": {"activity": "working"}}, {"metrics": {"n": n}}][group.rank])
else:
    group.report(beat={"activity": ["restoring", "saving"][group.rank - 2]})
    time.sleep(2)
"""


def test_ranks_that_say_that_they_live_or_may_take_their_time_are_left_alone(agent):
    agent.assign(f"{WORKS}{LIVES}", ranks=4, hang_seconds=1)
    assert agent.end() == 0
    assert "hang" not in agent.log.read_text()


def test_an_agent_whose_storage_takes_no_stacks_tells_all_the_same(agent):
    no_folder = f"(group.output / 'stacks').touch()\n{HANGS}"
    agent.assign(no_folder, hang_seconds=1)
    hang = agent.when(lambda state: state.hang).hang
    assert (hang.silent, hang.stacks) == ([0], "")
    assert "stacks_not_stored" in agent.log.read_text()


def test_agent_0_looks_at_its_own_ranks_when_another_one_tells_of_a_hang(agent):
    agent.assign(f"{WORKS}import time\nprint([], flush=True)\ntime.sleep(1000)", workers=2)
    eventually(lambda: [] in agent.said(), 30, "a rank that has begun", agent.log.read_text)
    hang = {"silent": [1], "since": "2026-11-24T12:00:00Z", "places": []}
    news = {"worker": 1, "attempt": 1, "phase": "running", "hang": hang}
    assert agent.request("/peer", json.dumps(news).encode(), method="PUT")[0] == 200
    state = agent.when(lambda state: state.hang)
    assert (state.hang.silent, [place.ranks for place in state.hang.places]) == ([], [[0]])
    assert state.peers[0].hang.silent == [1]


def test_patience_may_change_in_the_middle_of_an_attempt(agent):
    agent.assign(f"{WORKS}import time\ntime.sleep(1000)", hang_seconds=1000)
    agent.assign(f"{WORKS}import time\ntime.sleep(1000)", hang_seconds=1)
    agent.when(lambda state: state.hang)


def test_agent_0_names_the_rank_that_is_slower_than_the_others_by_itself(agent):
    source = """
for n in range(2):
    group.report(beat={"activity": "working", "step": 20 * n, "pace": 0.2 if group.rank == 1 else 0.1})
import time
time.sleep(1000)
"""
    agent.assign(source, ranks=2, workers=2)
    paces = [{"rank": 2, "seconds": 0.1}, {"rank": 3, "seconds": 0.11}]
    news = {"worker": 1, "attempt": 1, "phase": "running", "paces": paces}
    assert agent.request("/peer", json.dumps(news).encode(), method="PUT")[0] == 200
    [slow] = agent.when(lambda state: state.stragglers).stragglers
    assert (slow.rank, slow.seconds, slow.usual_seconds) == (1, 0.2, 0.1)
    assert 'rank="1",run="tiny",stage="base"} 0.2' in agent.request("/metrics", token=None)[1]
