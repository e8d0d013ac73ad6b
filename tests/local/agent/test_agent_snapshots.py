"""Snapshots that outlive their ranks: slots that are never torn, and copies that are whole or not there."""

import hashlib
import http.client
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from agents import DEADLINE, TOKEN, errors_of, parsed
from conditions import eventually
from trainyard_api.protocol import Assignment

SLOTS = """
import json, os, sys, time
slots = [int(fd) for fd in os.environ["TRAINYARD_SNAPSHOT_FDS"].split(",")]

def tell(slot, step, size):
    group.report(snapshot=dict(rank=group.rank, step=step, attempt=group.attempt, bytes=size, slot=slot))

def save(slot, step, content):
    tell(slot, step, 0)
    os.ftruncate(slots[slot], len(content))
    os.pwrite(slots[slot], content, 0)
    tell(slot, step, len(content))

def inventory():
    held = json.loads(os.environ["TRAINYARD_SNAPSHOTS"])
    return sorted(
        [each["rank"], each["step"], each["attempt"], os.pread(each["fd"], each["bytes"], 0).decode(),
         [os.path.sameopenfile(fd, each["fd"]) for fd in slots].index(True) if group.rank == each["rank"] else None]
        for each in held)
"""
WAITS = "\nwhile not group.stopping(): time.sleep(0.01)\n"
SHOWS = f"{SLOTS}\nprint(json.dumps({{'rank': group.rank, 'held': inventory()}}))"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def path(rank: int, step: int, attempt: int) -> str:
    """Where an agent has a rank's shard of a step; the attempt is the asker's."""
    return f"/snapshots/{rank}?step={step}&attempt={attempt}"


@pytest.fixture
def holder(agent):
    """An agent whose rank waits, in attempt 3, with room for 100 bytes of snapshots."""
    place = agent.assignment(f"{SLOTS}group.report(resumed_step=0){WAITS}", attempt=3)
    agent.put(with_budget(place, 100))
    agent.when(lambda state: state.resumed_step == 0)
    return agent


def with_budget(place: Assignment, budget: int) -> Assignment:
    """The assignment, with so many bytes for snapshots."""
    return place.model_copy(update={"job": place.job.model_copy(update={"memory_budget": budget})})


def test_the_ranks_of_the_next_attempt_are_given_what_is_whole_and_only_that(agent):
    source = f"""{SLOTS}
save(0, 10, b"ten of %d" % group.rank)
save(1, 20, b"twenty of %d" % group.rank)
saved = group.output / "saved"
if group.rank == 0:
    saved.touch()
    time.sleep(1000)
while not saved.exists(): time.sleep(0.01)
tell(0, 30, 0)
os.pwrite(slots[0], b"half", 0)
os.kill(os.getpid(), 9)
"""
    agent.assign(source, ranks=2)
    agent.failed()
    agent.put(with_budget(agent.assignment(SHOWS, attempt=2, ranks=2), 100))
    assert agent.end() == 0
    [first, second] = sorted(agent.said(), key=lambda said: said["rank"])
    assert first["held"] == [
        [0, 10, 1, "ten of 0", 0],
        [0, 20, 1, "twenty of 0", 1],
        [1, 20, 1, "twenty of 1", None],
    ]
    assert [each[:4] for each in second["held"]] == [each[:4] for each in first["held"]]
    assert second["held"][2][4] == 1


def test_ranks_know_where_the_agents_are(agent):
    shown = "{name: os.environ[name] for name in os.environ if name.startswith('TRAINYARD_')}"
    agent.assign(f"import json, os\nprint(json.dumps({shown}))", workers=2)
    assert agent.end() == 0
    [variables] = agent.said()
    assert variables["TRAINYARD_ADDRESSES"] == f'["{agent.address}", "{agent.address}"]'
    assert Path(variables["TRAINYARD_TOKEN_FILE"]).read_text() == TOKEN


def test_a_copy_is_kept_whole_and_handed_to_whoever_asks_and_to_the_next_ranks(holder):
    assert holder.request(path(7, 40, 3), b"forty of 7", method="PUT")[0] == 200
    assert holder.request(path(7, 40, 3)) == (200, "forty of 7")
    assert holder.request(path(7, 50, 3), b"fifty of 7", method="PUT")[0] == 200
    assert holder.request(path(7, 40, 3))[0] == 404
    assert parsed(holder.request("/metrics", token=None)[1])[
        'trainyard_snapshot_copy_bytes{namespace="team",run="tiny",stage="base"}'
    ] == len("fifty of 7")

    holder.assign(SHOWS, attempt=4)
    assert holder.end() == 0
    assert holder.said() == [{"rank": 0, "held": [[7, 50, 3, "fifty of 7", None]]}]


def test_a_copy_that_isnt_whole_changes_nothing(holder):
    holder.request(path(7, 40, 3), b"forty of 7", method="PUT")

    digest = hashlib.sha256(b"fifty of 7").hexdigest()
    answers = []
    for body in (b"fifty of 8", b"fifty of 7"):
        url = f"http://{holder.address}:9400{path(7, 50, 3)}"
        request = urllib.request.Request(url, body, HEADERS | {"X-Trainyard-SHA256": digest}, method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                answers.append(answer.status)
        except urllib.error.HTTPError as error:
            answers.append(error.code)
            assert holder.request(path(7, 40, 3)) == (200, "forty of 7")
    assert answers == [422, 200]

    with socket.create_connection((holder.address, 9400)) as connection:
        request = f"PUT {path(7, 60, 3)} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 10\r\n"
        connection.sendall(f"{request}\r\nsixty".encode())
    assert holder.request(path(7, 60, 3))[0] == 404
    assert holder.request(path(7, 50, 3)) == (200, "fifty of 7")


def test_what_is_refused(holder):
    assert holder.request(path(7, 40, 3), b"forty", method="PUT")[0] == 200
    cases = {
        "of an attempt that is over": (path(7, 50, 2), b"fifty", 409),
        "without content": (path(7, 50, 3), b"", 411),
        "of no step": ("/snapshots/7?attempt=3", b"fifty", 400),
        "too large": (path(8, 50, 3), bytes(96), 507),
    }
    for what, (where, body, expected) in cases.items():
        status, said = holder.request(where, body, method="PUT")
        assert (what, status) == (what, expected)
        assert errors_of(said)
        assert holder.request(where, body, token="wrong", method="PUT")[0] == 401
    assert holder.request(path(7, 40, 2))[0] == 409
    assert holder.request(path(7, 40, 3), token=None)[0] == 401
    assert holder.request(path(7, 40, 3)) == (200, "forty")

    full = bytes(100)  # no room for it beside the last one, which goes first
    assert holder.request(path(7, 50, 3), full, method="PUT")[0] == 200
    assert holder.request(path(7, 40, 3))[0] == 404


def test_a_slot_that_is_overwritten_while_it_is_read_is_cut_off(agent):
    size = 64 * 1024 * 1024
    source = f"""{SLOTS}
save(0, 10, b"a" * {size})
group.report(resumed_step=0)
while not (group.output / "go").exists(): time.sleep(0.01)
save(0, 20, b"b" * {size})
group.report(resumed_step=1)
{WAITS}"""
    agent.assign(source)
    agent.when(lambda state: state.resumed_step == 0)
    connection = http.client.HTTPConnection(agent.address, 9400, timeout=DEADLINE)
    connection.request("GET", path(0, 10, 1), headers=HEADERS)
    answer = connection.getresponse()
    assert int(answer.getheader("Content-Length")) == size
    first = answer.read(1024)
    (agent.storage / "team/tiny/base/go").touch()
    agent.when(lambda state: state.resumed_step == 1)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)) as cut_off:
        answer.read()
    rest = cut_off.value.partial if isinstance(cut_off.value, http.client.IncompleteRead) else b""
    assert set(first + rest) == {ord("a")}
    assert agent.request(path(0, 10, 1))[0] == 404
    eventually(lambda: agent.request(path(0, 20, 1))[0] == 200, DEADLINE, "the new one is served")
