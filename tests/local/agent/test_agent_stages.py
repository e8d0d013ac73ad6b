"""Agents with real stages: one that prepares data, and two that train as one group."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from agents import AgentUnderTest
from conditions import eventually

PREPARE = {"sources": [{"path": "texts"}], "tokenizer": {"vocabSize": 300}, "heldOutFraction": 0.2}
PRETRAIN = {
    "data": "corpus",
    "model": {
        "type": "llama",
        "config": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        },
    },
    "sequenceLength": 16,
    "globalBatch": 4,
    "microBatch": 2,
    "checkpoint": {"everySteps": 5},
    "validation": {"everySteps": 5, "sequences": 4},
}
LONG = 100_000
"""Steps that no test sees the end of."""


def prepare(agent: AgentUnderTest, texts: dict[str, bytes]) -> int:
    """Have the agent prepare these files; returns its exit code."""
    folder = agent.storage / "texts"
    folder.mkdir(parents=True)
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    agent.assign(kind="prepare", settings=PREPARE, output_uri=f"file://{agent.storage}/team/tiny/corpus")
    return agent.end()


@pytest.fixture
def pair(start_agent):
    """Two idle agents with prepared data, the first of them rank 0's."""
    lines = (f"Line {n} of many lines that are not all alike: {n * n}.\n" for n in range(400))
    texts = {f"{n}.txt": "".join(line for line, _ in zip(lines, range(20), strict=False)).encode() for n in range(20)}
    assert prepare(start_agent(), texts) == 0
    return start_agent(), start_agent()


def pretrain(pair, steps: int, attempt: int = 1) -> None:
    """Have both agents train as one group."""
    port = pair[0].state().master_port
    for worker, agent in enumerate(pair):
        place = agent.assignment(
            attempt=attempt,
            workers=2,
            worker=worker,
            kind="pretrain",
            settings=PRETRAIN | {"steps": steps},
            inputs={"data": f"file://{agent.storage}/team/tiny/corpus"},
        )
        addresses = [each.address for each in pair]
        place = place.model_copy(
            update={"master_address": addresses[0], "master_port": port, "addresses": addresses},
        )
        assert agent.put(place)[0] == 200


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiling_takes_longer_than_a_hang_and_is_none(start_agent, tmp_path: Path):
    lines = [f"Line {n} of many lines that are not all alike: {n * n}.\n" for n in range(200)]
    assert prepare(start_agent(), {f"{n}.txt": "".join(lines[n::8]).encode() for n in range(8)}) == 0
    agent = start_agent(TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "kernels"))
    agent.assign(
        kind="pretrain",
        settings=PRETRAIN | {"steps": 2, "compile": True},
        inputs={"data": f"file://{agent.storage}/team/tiny/corpus"},
        hang_seconds=2,
    )
    eventually(lambda: agent.process.poll() is not None, 400, "training has ended", agent.log.read_text)
    assert agent.termination.cause == "Done"
    written = (agent.storage / "team/tiny/base/metrics.jsonl").read_text().splitlines()
    first = json.loads(written[0])
    assert first["step"] == 1
    assert first["step_seconds"] > 2


def test_prepare_reports_its_artifact_and_a_second_attempt_finds_it_done(start_agent):
    agent = start_agent()
    assert prepare(agent, {"one.txt": b"some text\n", "two.txt": b"more text\n", "three.txt": b"and more\n"}) == 0
    artifact = agent.termination.artifact
    assert artifact.uri == f"file://{agent.storage}/team/tiny/corpus"
    assert artifact.metrics["documents"] == 3
    before = (agent.storage / "team/tiny/corpus/artifact.json").read_bytes()
    assert json.loads(before)["kind"] == "prepare"

    again = start_agent()
    again.assign(attempt=2, kind="prepare", settings=PREPARE, output_uri=artifact.uri)
    assert again.end() == 0
    assert again.termination.artifact == artifact
    assert (agent.storage / "team/tiny/corpus/artifact.json").read_bytes() == before

    other = start_agent()
    other.assign(attempt=3, kind="prepare", settings=PREPARE | {"heldOutFraction": 0.4}, output_uri=artifact.uri)
    assert other.end() == 10
    assert "other settings" in other.termination.message


def test_data_that_is_no_good_is_a_permanent_error_that_says_so(agent):
    assert prepare(agent, {"empty.txt": b""}) == 10
    assert agent.termination.cause == "PermanentError"
    assert "prepare.sources: no text" in agent.termination.message


def test_storage_that_cant_be_written_names_the_field(agent):
    agent.storage.mkdir()
    (agent.storage / "team").write_text("a file where a folder should be")
    agent.assign(kind="prepare", settings=PREPARE, output_uri=f"file://{agent.storage}/team/tiny/corpus")
    assert agent.end() == 10
    assert "spec.storage.uri" in agent.termination.message


def test_two_agents_train_as_one_group(pair):
    first, second = pair
    pretrain(pair, steps=6)
    assert first.end() == 0
    assert second.end() == 0
    said = first.termination
    assert (said.progress.step, said.checkpoint.step, said.resumed_step) == (6, 6, 0)
    assert said.artifact.metrics["held_out_loss"] > 0
    assert second.termination.cause == "Done"


def test_a_group_outlives_what_happens_to_its_members_and_goes_on_from_where_it_was(pair, start_agent):
    first, second = pair
    pretrain(pair, steps=LONG)
    first.when(lambda state: state.checkpoint)
    os.kill(second.state().ranks[0].pid, signal.SIGKILL)
    state = first.when(lambda state: state.phase == "failed" and state.peers[0].phase == "failed")
    [peer] = state.peers
    assert (state.termination.cause, peer.termination.cause, peer.worker) == ("PeerLost", "Killed", 1)
    assert state.termination.checkpoint.step >= 5

    pretrain(pair, steps=LONG, attempt=2)
    state = first.when(lambda state: state.attempt == 2 and state.progress)
    assert state.resumed_step >= 5
    assert [(each.attempt, each.phase) for each in state.peers] == [(2, "running")]

    second.signal(signal.SIGTERM)  # one agent is stopped, and the group at one step
    assert second.end() == 20
    assert first.failed(2).cause == "Stopped"
    state = first.when(lambda state: state.peers[0].phase == "failed")
    assert state.peers[0].termination.exit_code == 20

    second = start_agent()
    pretrain((first, second), steps=LONG, attempt=3)
    assert first.when(lambda each: each.attempt == 3 and each.progress).resumed_step == state.checkpoint.step

    second.signal(signal.SIGKILL)
    assert first.failed(3).cause == "PeerLost"
