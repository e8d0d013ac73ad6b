"""`trainyard run` from end to end: real agents, real ranks, real signals, in a home of each test's own."""

import gzip
import json
import os
import signal
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conditions import until
from local_runs import (
    DEADLINE,
    PRETRAIN,
    TRAINED,
    agent_processes,
    events,
    made,
    metrics,
    nothing_lives,
    pod_processes,
    rank_processes,
    running,
    steps_done,
    stored,
    trainyard,
    weights,
    write_run,
)
from tensorboard_events import read_scalars
from training import committed as folder_of
from training import committed_steps
from trainyard_api.status import Phase
from trainyard_operator.cli.inputs import read_run_file
from trainyard_operator.cli.local_run import LocalRun
from trainyard_operator.cli.taking_up import new_run
from trainyard_operator.cluster.agent_access import agent_url
from trainyard_operator.cluster.home import Home


def page(url: str) -> str:
    """What a server answers."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of all four kinds of stage that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    evaluate = {"model": "base", "data": "corpus", "sequenceLength": 64}
    report = {"name": "report", "evaluate": evaluate, "workers": {"count": 1}}
    write_run(folder, [*TRAINED, {"name": "model", "export": {"model": "base"}}, report])
    ended = trainyard(folder, "run", "run.yaml", "--plain")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (folder / "output.txt").write_text(ended.stdout)
    return folder


def test_a_run_goes_through_all_its_stages_and_says_where_everything_lies(undisturbed: Path) -> None:
    status = stored(undisturbed)["status"]
    assert (status["phase"], status["reason"]) == ("Succeeded", "Completed")
    assert [stage["phase"] for stage in status["stages"]] == ["Succeeded"] * 4
    figures = status["stages"][3]["metrics"]
    assert all(0 < figures[key] < 8 for key in ("bits_per_byte", "unigram_bits_per_byte", "zlib_bits_per_byte"))
    output = (undisturbed / "output.txt").read_text()
    assert "base: Running (Training)" in output
    assert f"artifacts: {made(undisturbed)}" in output
    assert nothing_lives(undisturbed)


def test_the_other_verbs_show_a_finished_run(undisturbed: Path) -> None:
    got = trainyard(undisturbed, "get", "tiny").stdout
    assert "tiny   report   Succeeded" in got
    assert "==> tiny-base-0-2" in trainyard(undisturbed, "logs", "tiny", "--stage", "base").stdout
    assert trainyard(undisturbed, "plot", "tiny", "--output", "loss.png").returncode == 0
    for name in ("loss.png", "loss-times.png", "loss-profile.png"):
        assert (undisturbed / name).stat().st_size > 1000
    again = trainyard(undisturbed, "run", "run.yaml")
    assert (again.returncode, "has succeeded already" in again.stdout) == (0, True)
    assert trainyard(undisturbed, "get", "other").returncode == 1


def test_what_was_planned_came_to_pass(undisturbed: Path) -> None:
    _, base, *_ = stored(undisturbed)["status"]["stages"]
    assert base["plan"]["parameters"] == base["metrics"]["parameters"]
    checkpoint = max((made(undisturbed) / "base/checkpoints").iterdir())
    saved = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert base["plan"]["checkpointBytes"] == pytest.approx(saved, rel=0.15)


def test_ranks_tell_what_a_step_is_spent_on(undisturbed: Path) -> None:
    """Of rank 0: the parts are within the step, and MFU is the published formula by the peak that the run gives."""
    base = made(undisturbed) / "base"
    plan = stored(undisturbed)["status"]["stages"][1]["plan"]
    lines = [json.loads(line) for line in (base / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    for line in steps:
        assert set(line["seconds"]) == {"data", "forward", "backward", "optimizer", "checkpoint", "wait"}
        assert 0 < sum(line["seconds"].values()) <= line["step_seconds"] + 0.001
        assert line["mfu"] == pytest.approx(plan["flopsPerToken"] * line["tokens_per_second"] / 2e11, abs=1e-4)
        assert line["memory_bytes"] > 100e6
    [events] = (base / "tensorboard").iterdir()
    told = read_scalars(events.read_bytes())
    assert [(step, values["loss"]) for step, values in told if "loss" in values] == [
        (line["step"], pytest.approx(line["loss"])) for line in steps
    ]
    assert all(values["seconds/forward"] > 0 for _, values in told if "loss" in values)


def test_a_profile_has_a_time_line_and_the_operators_of_its_steps(undisturbed: Path) -> None:
    profile = made(undisturbed) / "base/profile"
    assert len(json.loads(gzip.decompress((profile / "trace.json.gz").read_bytes()))["traceEvents"]) > 100
    told = json.loads((profile / "operators.json").read_text())
    calls = {each["name"]: each["calls"] for each in told["operators"]}
    assert told["steps"] == [3, 4]
    # Two steps' one forward pass a rank: seven linear layers in each of two layers. The head is within the loss.
    assert calls["aten::linear"] == 2 * 2 * 7
    assert "aten::mm" in (profile / "operators.txt").read_text()


async def test_a_killed_rank_costs_the_ranks_a_killed_agent_its_pod_and_neither_a_bit_of_the_weights(
    undisturbed: Path, tmp_path: Path
) -> None:
    write_run(tmp_path, TRAINED)
    with running(tmp_path) as process:
        await until(lambda: committed(tmp_path)[-1:] >= [20], "a checkpoint of step 20 or later", DEADLINE)
        agents = agent_processes(tmp_path)
        assert set(agents) == {"tiny-base-0-2", "tiny-base-1-2"}
        os.kill(rank_processes(tmp_path)[1], signal.SIGKILL)
        await until(lambda: trained_in(tmp_path, attempt=3), "steps of the next attempt", DEADLINE)
        assert agent_processes(tmp_path) == agents
        os.kill(agents["tiny-base-1-2"], signal.SIGKILL)
        both = {"tiny-base-0-2", "tiny-base-1-4"}
        await until(lambda: set(agent_processes(tmp_path)) == both, "another agent for the killed one alone", DEADLINE)
        assert agent_processes(tmp_path)["tiny-base-0-2"] == agents["tiny-base-0-2"]
        await until(lambda: process.poll() is not None, "the end of the run", DEADLINE)
    assert process.returncode == 0, (tmp_path / "output.txt").read_text()
    status = stored(tmp_path)["status"]
    first, second = status["recoveries"]
    assert (first["tier"], first["rank"], second["tier"]) == ("ranks", 1, "pod")
    assert 20 <= first["resumedStep"] <= second["resumedStep"] <= PRETRAIN["steps"]
    for recovery in (first, second):
        assert (recovery["cause"], recovery["pod"], recovery["exitCode"]) == ("ProcessFailed", "tiny-base-1-2", 137)
        assert recovery["restoredFrom"] == "memory"
        assert recovery["detectSeconds"] < 5 < recovery["detectSeconds"] + recovery["reformSeconds"] + 5 < 60
    assert status["restarts"]["failures"] == 2
    assert weights(tmp_path) == weights(undisturbed)
    assert nothing_lives(tmp_path)


async def test_a_rank_that_was_stopped_is_named_with_all_stacks_and_costs_no_bit_of_the_weights(
    undisturbed: Path, tmp_path: Path
) -> None:
    write_run(tmp_path, TRAINED, recovery={"hangSeconds": 5})
    with running(tmp_path) as process:
        await until(lambda: committed(tmp_path)[-1:] >= [20], "a checkpoint of step 20 or later", DEADLINE)
        os.kill(rank_processes(tmp_path)[1], signal.SIGSTOP)
        assert "tiny-base-1-2" in trainyard(tmp_path, "stacks", "tiny", "--now").stdout
        await until(lambda: process.poll() is not None, "the end of the run", DEADLINE)
    assert process.returncode == 0, (tmp_path / "output.txt").read_text()
    recovery = only_recovery(tmp_path)
    assert (recovery["cause"], recovery["tier"], recovery["rank"]) == ("Hung", "ranks", 1)
    assert "rank 1 does not respond: stopped (kernel state T" in recovery["message"]
    assert "rank 0 waits in " in recovery["message"]
    assert 5 <= recovery["detectSeconds"] < 20
    assert recovery["stacks"] == f"file://{made(tmp_path)}/base/stacks/attempt-2"
    warnings = [event["reason"] for event in events(tmp_path) if event["type"] == "Warning"]
    slow_for_real_on_a_busy_core = "Straggler"
    assert [reason for reason in warnings if reason != slow_for_real_on_a_busy_core] == ["Hung"]
    shown = trainyard(tmp_path, "stacks", "tiny").stdout
    assert "==> base attempt 2 rank-1\nrank 1, pid " in shown
    assert "add_up" in shown or any(name in shown for name in ("gradients", "update"))
    assert weights(tmp_path) == weights(undisturbed)


async def test_a_worker_that_is_not_heard_any_more_is_replaced_and_changes_nothing_when_it_wakes_up(
    undisturbed: Path, tmp_path: Path
) -> None:
    write_run(tmp_path, TRAINED)
    with running(tmp_path) as process:
        await until(lambda: committed(tmp_path)[-1:] >= [20], "a checkpoint of step 20 or later", DEADLINE)
        stopped = pod_processes(tmp_path, "tiny-base-1-2")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        await until(lambda: "tiny-base-1-3" in agent_processes(tmp_path), "another agent in its place", DEADLINE)
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        await until(lambda: process.poll() is not None, "the end of the run", DEADLINE)
    assert process.returncode == 0, (tmp_path / "output.txt").read_text()
    recovery = only_recovery(tmp_path)
    known = {name: recovery[name] for name in ("cause", "tier", "pod", "restoredFrom")}
    assert known == {"cause": "AgentSilent", "tier": "pod", "pod": "tiny-base-1-2", "restoredFrom": "memory"}
    assert weights(tmp_path) == weights(undisturbed)
    assert nothing_lives(tmp_path)


def only_recovery(folder: Path) -> dict[str, Any]:
    """What the run has gone through once."""
    recoveries = stored(folder)["status"]["recoveries"]
    assert len(recoveries) == 1, json.dumps(recoveries, indent=1)
    return dict(recoveries[0])


def trained_in(folder: Path, attempt: int) -> bool:
    """Whether an attempt has done a step."""
    return any(row["attempt"] == attempt for row in metrics(folder))


async def test_interrupted_it_saves_and_the_same_command_goes_on_to_the_same_weights(
    undisturbed: Path, tmp_path: Path
) -> None:
    write_run(tmp_path, TRAINED)
    with running(tmp_path) as process:
        await until(lambda: steps_done(tmp_path) >= 13, "13 steps", DEADLINE)
        second = trainyard(tmp_path, "run", "run.yaml")
        assert (second.returncode, second.stderr.count(f"driven by process {process.pid}")) == (2, 1)
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None, "the stop", 60)
    assert process.returncode == 130
    assert nothing_lives(tmp_path)
    output = (tmp_path / "output.txt").read_text()
    at = stored(tmp_path)["status"]["checkpoint"]["step"]
    assert at >= 13
    assert f"tiny: stopped at step {at} in stage base; the same command resumes it" in output
    changed = write_run(tmp_path, TRAINED, seed=1)
    refused = trainyard(tmp_path, "run", changed.name)
    assert (refused.returncode, "another name" in refused.stderr) == (2, True)
    write_run(tmp_path, TRAINED)
    resumed = trainyard(tmp_path, "run", "run.yaml", "--plain")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert stored(tmp_path)["status"].get("recoveries", []) == []
    assert weights(tmp_path) == weights(undisturbed)


async def test_suspended_it_saves_and_resumed_it_goes_on_to_the_same_weights_also_over_tls(
    undisturbed: Path, tmp_path: Path
) -> None:
    file = write_run(tmp_path, TRAINED)
    local = LocalRun(Home(tmp_path / ".trainyard"), new_run(read_run_file(file, None)), agent_tls=True)
    await local.start()
    try:
        await until(lambda: steps_done(tmp_path) >= 13, "13 steps", DEADLINE)
        urls = [
            agent_url(pod) for pod in local.store.pods(local.key) if pod["metadata"]["name"].startswith("tiny-base-")
        ]
        assert [url.partition(":")[0] for url in urls] == ["https", "https"]
        await local.cluster.change_spec(local.key, suspend=True)
        await until(lambda: local.status().phase == Phase.SUSPENDED, "the suspension", DEADLINE)
        assert nothing_lives(tmp_path)
        suspended = local.status()
        assert suspended.checkpoint
        assert suspended.checkpoint.step == committed(tmp_path)[-1] == steps_done(tmp_path)
        assert (suspended.observed_generation, suspended.active_since) == (2, None)
        await local.cluster.change_spec(local.key, suspend=False)
        await until(lambda: local.status().phase == Phase.SUCCEEDED, "the end", DEADLINE)
    finally:
        await local.stop()
    ended = local.status()
    assert (ended.restarts.total, ended.recoveries, ended.observed_generation) == (0, (), 3)
    assert ended.active_seconds > suspended.active_seconds > 0
    assert [row["step"] for row in metrics(tmp_path) if "loss" in row] == list(range(1, PRETRAIN["steps"] + 1))
    assert [each["reason"] for each in events(tmp_path)][1:3] == ["Suspended", "Resumed"]
    logs = [file.read_text() for file in (tmp_path / ".trainyard/runs/default/tiny/logs").glob("tiny-base-*")]
    assert len(logs) == 4
    assert not any("no copy of this shard" in log for log in logs)
    assert weights(tmp_path) == weights(undisturbed)


def test_a_file_that_suspends_its_run_starts_nothing_and_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, TRAINED, suspend=True)
    ended = trainyard(tmp_path, "run", "run.yaml", "--plain")
    assert ended.returncode == 130
    assert "tiny: Suspended (Suspended): spec.suspend is true; set it to false to begin" in ended.stdout
    assert not made(tmp_path).exists()


async def test_a_checkpoint_that_went_bad_is_told_and_the_one_before_leads_to_the_same_weights(
    undisturbed: Path, tmp_path: Path
) -> None:
    write_run(tmp_path, TRAINED)
    with running(tmp_path) as process:
        await until(lambda: steps_done(tmp_path) >= 23, "23 steps", DEADLINE)
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None, "the stop", 60)
    *_, before, newest = committed(tmp_path)
    flip_a_bit(folder_of(made(tmp_path) / "base", newest) / "rank-00001.safetensors")
    resumed = trainyard(tmp_path, "run", "run.yaml", "--plain")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    reason = "rank-00001.safetensors has other content than was written (SHA-256 differs)"
    assert f"checkpoint of step {newest} set aside: {reason}" in resumed.stdout
    [quarantined] = stored(tmp_path)["status"]["quarantined"]
    assert (quarantined["step"], quarantined["reason"]) == (newest, reason)
    [event] = [each for each in events(tmp_path) if each["reason"] == "CheckpointQuarantined"]
    assert event["type"] == "Warning"
    assert event["message"] == f"stage base: the checkpoint of step {newest} is bad and was set aside: {reason}"
    again = [row["step"] for row in metrics(tmp_path) if row["attempt"] == 3]
    assert again[0] == before + 1
    assert weights(tmp_path) == weights(undisturbed)


def committed(folder: Path) -> list[int]:
    """Steps that the pretrain stage's checkpoints hold, ascending."""
    return committed_steps(made(folder) / "base")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


async def test_interrupted_twice_it_ends_at_once(tmp_path: Path) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    command = {"name": "trainer", "command": [sys.executable, "-c", script]}
    write_run(tmp_path, TRAINED[:1], template={"spec": {"containers": [command]}})
    with running(tmp_path, "--metrics-port", "0") as process:
        await until(lambda: stored(tmp_path).get("status", {}).get("phase") == "Starting", "the pod", 30)
        await until(lambda: any("deaf" in log.read_text() for log in tmp_path.rglob("*.log")), "its process", 30)
        url = (tmp_path / "output.txt").read_text().split("metrics at ")[1].split()[0]
        assert 'trainyard_runs{namespace="default",phase="Starting"} 1.0' in page(url)
        process.send_signal(signal.SIGINT)
        await until(lambda: "stopping" in (tmp_path / "output.txt").read_text(), "the answer", 30)
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None, "the end", 30)
    assert process.returncode == 130
    assert nothing_lives(tmp_path)


async def test_killed_itself_it_leaves_no_process_behind(tmp_path: Path) -> None:
    write_run(
        tmp_path, TRAINED[:1], template={"spec": {"containers": [{"name": "trainer", "command": ["sleep", "600"]}]}}
    )
    with running(tmp_path) as process:
        await until(lambda: stored(tmp_path).get("status", {}).get("phase") == "Starting", "the pod", 30)
        await until(lambda: not nothing_lives(tmp_path), "its process", 30)
        process.kill()
        await until(lambda: nothing_lives(tmp_path), "the end of its pods", 30)


def corpus(path: Path) -> list[dict[str, Any]]:
    """One stage that reads a path."""
    return [{"name": "corpus", "prepare": {"sources": [{"path": str(path)}], "tokenizer": {"vocabSize": 258}}}]


def test_data_that_is_missing_or_empty_fails_the_run_and_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for name, problem in (("missing.txt", "missing.txt"), ("empty.txt", "no text in 1 file")):
        write_run(tmp_path, corpus(tmp_path / name))
        ended = trainyard(tmp_path, "run", "run.yaml", "--plain", "--fresh")
        assert ended.returncode == 1
        status = stored(tmp_path)["status"]
        assert (status["phase"], status["reason"]) == ("Failed", "PermanentError")
        assert "sources" in status["message"]
        assert problem in status["message"]
        assert "the same command tries again" in ended.stdout


def test_invalid_utf8_is_counted_and_reported(tmp_path: Path) -> None:
    documents = [f"Document {number} says something of its own, {'at length. ' * 20}".encode() for number in range(40)]
    for number, document in enumerate(documents):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{number}.txt").write_bytes(document + (b"\xff\xfe" if number == 3 else b""))
    write_run(tmp_path, corpus(tmp_path / "data"))
    ended = trainyard(tmp_path, "run", "run.yaml", "--plain")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert stored(tmp_path)["status"]["stages"][0]["metrics"]["documents_repaired"] == 1


def test_input_that_is_wrong_starts_nothing_and_exits_with_2(tmp_path: Path) -> None:
    write_run(tmp_path, [*TRAINED[:1], {"name": "base", "pretrain": {**PRETRAIN, "globalBatch": 5, "data": "corpse"}}])
    ended = trainyard(tmp_path, "run", "run.yaml")
    assert ended.returncode == 2
    assert "spec.stages[1].pretrain.data: corpse is not an earlier prepare stage" in ended.stderr
    assert (
        "spec.stages[1].pretrain.globalBatch: 5 is not divisible by 2 ranks × microBatch 2; use 4 or 8" in ended.stderr
    )
    assert stored(tmp_path) == {}
