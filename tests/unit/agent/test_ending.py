"""Which of several ends is the cause, and how much of it fits into a termination log."""

import signal

import pytest
from trainyard_api.protocol import Artifact, Termination
from trainyard_api.status import CheckpointStatus, Progress
from trainyard_trainer.agent.ending import TERMINATION_BYTES, Ending, bounded, decide_termination
from trainyard_trainer.agent.memory_limit import out_of_memory_kills

DONE, CRASHED, PERMANENT, STOPPED, RETRY = 0, 1, 10, 20, 30
KILLED, TERMINATED = -signal.SIGKILL, -signal.SIGTERM


def ends(*exit_codes, asked=False, killed=False):
    """Ranks 0, 1, … ending in this order; `asked` and `killed`: we had sent these signals to all but the first."""
    return [
        Ending(rank, code, f"t{rank}", asked_to_stop=asked and rank > 0, killed=killed and rank > 0)
        for rank, code in enumerate(exit_codes)
    ]


CASES = {
    "all done": (ends(DONE, DONE), False, (0, "Done", None)),
    "what would fail again outweighs what came before it": (ends(RETRY, PERMANENT), False, (10, "PermanentError", 1)),
    "a crash outweighs the peers that it lost, even if they were seen first": (
        ends(RETRY, KILLED),
        False,
        (137, "Killed", 1),
    ),
    "of two crashes the first counts": (ends(-signal.SIGSEGV, CRASHED), False, (139, "Crashed", 0)),
    "those that we end are no cause": (ends(RETRY, KILLED, asked=True, killed=True), False, (30, "PeerLost", 0)),
    "nor those that our SIGTERM ended before they began": (
        ends(CRASHED, TERMINATED, asked=True),
        False,
        (1, "Crashed", 0),
    ),
    "a SIGTERM from elsewhere is a crash": (ends(DONE, TERMINATED), False, (143, "Crashed", 1)),
    "all stopped": (ends(STOPPED, STOPPED), False, (20, "Stopped", 0)),
    "on a stop, losing those that left first is part of it": (ends(STOPPED, RETRY), True, (20, "Stopped", 0)),
    "without one, it is a lost peer": (ends(RETRY, STOPPED), False, (30, "PeerLost", 0)),
    "a stop that not a rank answered isn't one": (ends(RETRY, RETRY), True, (30, "PeerLost", 0)),
    "who knows of a cause comes before those that lost a peer": (
        [
            *ends(RETRY),
            Ending(1, RETRY, "t1", failure=Termination(exit_code=RETRY, cause="PreflightFailed", message="no storage")),
        ],
        False,
        (30, "PreflightFailed", 1),
    ),
    "stopped before it began": (ends(DONE, TERMINATED, asked=True), True, (20, "Stopped", 1)),
    "a rank that said that it stopped speaks for one that hadn't begun": (
        ends(DONE, TERMINATED, STOPPED, asked=True),
        True,
        (20, "Stopped", 2),
    ),
    "those that had to be killed saved nothing": (
        ends(DONE, KILLED, asked=True, killed=True),
        True,
        (137, "Killed", 1),
    ),
    "a crash while saving is one": (ends(STOPPED, -signal.SIGABRT), True, (134, "Crashed", 1)),
}


@pytest.mark.parametrize(("endings", "stop_requested", "expected"), CASES.values(), ids=CASES.keys())
def test_the_cause_among_its_consequences(endings, stop_requested, expected):
    said = decide_termination(endings, stop_requested=stop_requested)
    assert (said.exit_code, said.cause, said.rank) == expected
    if said.rank is not None:
        assert said.time == f"t{said.rank}"
        assert said.message or said.cause == "Done"


def test_a_rank_that_the_kernel_killed_for_lack_of_memory_says_so_and_what_to_do():
    told = [Ending(rank=0, exit_code=-signal.SIGKILL, time="t0", out_of_memory=known) for known in (True, False)]
    by_kernel, by_hand = (decide_termination([each], stop_requested=False) for each in told)
    assert (by_kernel.exit_code, by_kernel.cause) == (137, "OutOfMemory")
    assert by_kernel.message.endswith("raise spec.resources.memory or lower microBatch")
    assert (by_hand.exit_code, by_hand.cause, by_hand.message) == (
        137,
        "Killed",
        "rank 0 was killed from outside (SIGKILL)",
    )


COUNTED = {
    "control groups v2": ("low 0\nhigh 0\nmax 31\noom 2\noom_kill 3\noom_group_kill 0\n", 3),
    "control groups v1": ("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", 4),
    "a kernel that does not count": ("oom_kill_disable 0\nunder_oom 0\n", 0),
}


@pytest.mark.parametrize(("content", "kills"), COUNTED.values(), ids=COUNTED)
def test_kills_for_lack_of_memory_are_counted_by_the_kernel(tmp_path, content, kills):
    file = tmp_path / "counts"
    assert out_of_memory_kills((file,)) == 0
    file.write_text(content)
    assert out_of_memory_kills((tmp_path / "absent", file)) == kills


FULL = Termination(
    exit_code=10,
    cause="PermanentError",
    message="data: 7 is not a text; use a string",
    rank=3,
    step=9,
    time="2026-01-01T00:00:00.000000Z",
    last_lines=["ü" * 150] * 20,
    progress=Progress(step=9, steps=10, loss=2.5),
    checkpoint=CheckpointStatus(
        step=8, uri="file:///storage/team/tiny/base/checkpoints/step-8", time="2026-01-01T00:00:00Z"
    ),
    artifact=Artifact(uri="file:///storage/team/tiny/base", digest="0" * 64, metrics={"loss": 2.5}),
)


def test_what_fits_is_written_whole():
    small = FULL.model_copy(update={"last_lines": ["one", "two"]})
    assert Termination.model_validate_json(bounded(small)) == small


def test_old_lines_go_first():
    said = Termination.model_validate_json(bounded(FULL))
    assert 0 < len(said.last_lines) < 20
    assert said.model_copy(update={"last_lines": FULL.last_lines}) == FULL


@pytest.mark.parametrize(
    "given",
    [
        {"message": "é" * 5000},
        {"message": '"\n\x00' * 5000},
        {"message": "🚂" * 5000, "progress": Progress(message="x" * 9000)},
        {"message": "m" * 900, "artifact": Artifact(uri="u" * 9000, digest="", metrics={})},
        {"last_lines": ["\x01" * 300] * 20},
    ],
    ids=["a long message", "a message of escapes", "long progress", "a long artifact", "lines of escapes"],
)
def test_never_more_than_the_kubelet_reads(given):
    text = bounded(FULL.model_copy(update=given))
    assert len(text) <= TERMINATION_BYTES
    said = Termination.model_validate_json(text)
    assert (said.exit_code, said.cause, said.rank) == (10, "PermanentError", 3)
