"""Agents with real stages: one that prepares data, and two that train as one group."""

import json
import os
import signal

import pytest
from agents import AgentUnderTest

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
        place = place.model_copy(update={"master_address": pair[0].address, "master_port": port})
        assert agent.put(place)[0] == 200


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


def test_when_one_of_the_group_is_killed_the_other_says_that_it_lost_it(pair):
    first, second = pair
    pretrain(pair, steps=LONG)
    first.when(lambda state: state.checkpoint)
    os.kill(second.state().ranks[0].pid, signal.SIGKILL)
    assert (second.end(), first.end()) == (137, 30)
    assert (second.termination.cause, first.termination.cause) == ("Killed", "PeerLost")
    assert first.termination.checkpoint.step >= 5


def test_a_stop_of_one_stops_the_group_at_one_step_and_the_next_attempt_goes_on_from_there(pair, start_agent):
    first, second = pair
    pretrain(pair, steps=LONG)
    first.when(lambda state: state.progress)
    second.signal(signal.SIGTERM)
    assert (second.end(), first.end()) == (20, 20)
    stopped_at = first.termination.checkpoint.step

    pair = (start_agent(), start_agent())
    pretrain(pair, steps=LONG, attempt=2)
    assert pair[0].when(lambda state: state.progress).resumed_step == stopped_at


def test_a_group_whose_agent_is_killed_loses_it(pair):
    first, second = pair
    pretrain(pair, steps=LONG)
    first.when(lambda state: state.progress)
    second.signal(signal.SIGKILL)
    assert first.end() == 30
    assert first.termination.cause == "PeerLost"
