"""What `trainyard plan` works out, from the file that `trainyard run` takes."""

import json
from pathlib import Path
from typing import Any

import builders
import pytest
import yaml
from builders import done, manifest
from trainyard_api.planning import plan_of
from trainyard_api.run import TrainingRun
from trainyard_operator.cli.main import read_options
from trainyard_operator.cli.plan import plan_command
from trainyard_operator.cluster.home import Home

LLAMA_3_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "num_hidden_layers": 32}
GPUS = {"gpus": 8, "cpu": "32", "memory": "512Gi"}


def a_run(resources: dict[str, Any] = GPUS, **settings: Any) -> dict[str, Any]:
    """Llama 3 8B on two workers of eight GPUs, with parts of its pretrain stage replaced."""
    pretrain = {
        "data": "corpus",
        "model": {"type": "llama", "config": LLAMA_3_8B},
        "steps": 1000,
        "sequenceLength": 4096,
        "globalBatch": 256,
        "microBatch": 1,
        "deepspeed": {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}},
    }
    prepare = {"sources": [{"builtin": "python-docs"}], "tokenizer": {"vocabSize": 128256}}
    stages = [{"name": "corpus", "prepare": prepare}, {"name": "base", "pretrain": pretrain | settings}]
    return {**manifest(stages=stages, resources=resources), "metadata": {"name": "big"}}


def plan(folder: Path, run: dict[str, Any], *arguments: str) -> int:
    """What the command returns for a file with this run."""
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    return plan_command(read_options(["plan", str(file), "--home", str(folder / "home"), *arguments]))


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Of the first stage, as --json gives them."""
    stage: dict[str, Any] = json.loads(capsys.readouterr().out)["stages"][0]
    return stage


def test_the_figures_of_llama_3_8b(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, a_run(), "--json", "--mfu", "0.5", "--price", "2") == 0
    known = figures(capsys)
    assert known["parameters"] == 8_030_261_248
    assert known["flopsPerToken"] == 6 * (8_030_261_248 - 128256 * 4096 - 65 * 4096) + 12 * 32 * 4096 * 4096
    assert known["tokens"] == 1000 * 256 * 4096
    seconds = known["flops"] / (16 * 989.4e12 * 0.5)
    assert known["seconds"] == pytest.approx(seconds)
    assert known["stepSeconds"] == pytest.approx(seconds / 1000)
    assert known["joules"] == pytest.approx(700 * 16 * seconds)
    assert known["dollars"] == pytest.approx(2 * 16 * seconds / 3600)
    assert known["checkpointBytes"] == 12 * 8_030_261_248
    assert known["rankMemory"]["3"]["moments"] == 8 * 8_030_261_248 // 16


def test_what_does_not_fit_is_said_with_what_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, a_run(microBatch=16)) == 1
    said = capsys.readouterr().out
    assert "pretrain.microBatch: stage base needs" in said
    assert "or set zero_optimization.stage: 1, microBatch: 1" in said
    assert plan(tmp_path, a_run(GPUS | {"memory": "8Gi"})) == 1
    assert "resources.memory: stage base needs" in capsys.readouterr().out


def test_what_is_suggested_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path, a_run(microBatch=16), "--json")
    _, zero, _, size = figures(capsys)["suggestion"].replace(",", "").split()
    suggested = {"zero_optimization": {"stage": int(zero)}, "bf16": {"enabled": True}}
    assert plan(tmp_path, a_run(microBatch=int(size), deepspeed=suggested)) == 0


def test_hardware_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "hardware.yaml"
    table.write_text("ours: {bf16Flops: 1e15, memory: 96Gi, watts: 500, pricePerHour: 1.5}\n")
    given = ("--hardware-file", str(table), "--hardware", "ours")
    assert plan(tmp_path, a_run(), *given, "--json") == 0
    known = figures(capsys)
    assert known["flopsPerSecond"] == 0.4e15
    assert known["dollars"] == pytest.approx(1.5 * 16 * known["seconds"] / 3600)
    table.write_text("ours: {bf16Flops: 0, memory: 96Gi}\n")
    assert plan(tmp_path, a_run(), *given) == 2
    said = capsys.readouterr().err
    assert "ours.bf16Flops: Input should be greater than 0" in said
    assert "ours.watts: required, but not given" in said


def test_bad_input_is_refused_as_run_does_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, a_run(globalBatch=30)) == 2
    assert "globalBatch: 30 is not divisible by 16 ranks" in capsys.readouterr().err
    assert plan(tmp_path, a_run(), "--hardware", "abacus") == 2
    assert "--hardware: abacus is not known; use one of b200," in capsys.readouterr().err
    assert plan(tmp_path, a_run(), "--measured", "none") == 2
    assert "--measured: run none is not in" in capsys.readouterr().err


def test_the_speed_of_a_run_that_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten steps after three that warm up; the plan of the same stage then takes as long a step."""
    on_cpu = {"processes": 1, "cpu": "1", "memory": "900Gi"}
    before = {**a_run(on_cpu), "metadata": {"name": "before", "namespace": "default", "uid": "u"}}
    home = Home(tmp_path / "home")
    home.write_run(before)
    stage = home.root / "volumes/training/default/before/base"
    stage.mkdir(parents=True)
    rows = [{"attempt": 1, "step": step, "step_seconds": 9.0 if step < 4 else 2.0} for step in range(1, 14)]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plan(tmp_path, a_run(on_cpu), "--measured", "before", "--json") == 0
    assert figures(capsys)["stepSeconds"] == pytest.approx(2.0)
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    assert plan(tmp_path, a_run(on_cpu), "--measured", "before") == 2
    assert "has no stage with 13 steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"num_hidden_layers": -9},
        {"hidden_size": 10**12},
        {"head_dim": []},
    ],
)
def test_a_configuration_that_makes_no_sense_has_no_plan_and_still_begins(config: dict[str, Any]) -> None:
    """The trainer says what is wrong with it; the operator must not stumble."""
    run = TrainingRun.read(a_run(model={"type": "llama", "config": config}))
    assert plan_of(run.spec, run.spec.stages[1]) is None


def test_a_stage_that_begins_has_its_plan_in_the_status() -> None:
    """Of the builders' run: a Llama of transformers' own sizes, with the tokenizer's 4,096 entries, on two ranks."""
    decided = builders.a_run().in_stage("corpus").with_pods(done(stage="corpus")).decide()
    corpus, base, _ = decided.status.stages
    assert (corpus.plan, base.phase) == (None, "Running")
    assert base.plan is not None
    assert base.plan.parameters == 6_738_415_616 - 2 * (32000 - 4096) * 4096
    assert base.plan.checkpoint_bytes == 12 * base.plan.parameters
    assert base.plan.worker_memory_bytes > 8 * base.plan.parameters


def test_a_critic_a_reference_and_judges_take_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run()
    shared = {"data": "corpus", "model": {"stage": "base"}, "steps": 10, "sequenceLength": 512, "microBatch": 1}
    shared |= {"globalBatch": 16, "deepspeed": {"bf16": {"enabled": True}}}
    function = {"rewards": [{"function": "rewards.py:right"}]}
    run["spec"]["stages"] += [
        {"name": "judge", "reward": shared},
        {"name": "alone", "grpo": shared | function},
        {"name": "four", "grpo": shared | function | {"rollout": {"responses": 4}}},
        {"name": "pulled", "grpo": shared | function | {"policy": {"kl": 0.1}}},
        {"name": "tuned", "ppo": shared | {"rewards": [{"stage": "judge"}]}},
    ]
    plan(tmp_path, run, "--json")
    stages = {each["stage"]: each for each in json.loads(capsys.readouterr().out)["stages"]}
    alone, four, pulled, tuned = (stages[name]["rankMemory"]["0"] for name in ("alone", "four", "pulled", "tuned"))
    parameters, head = stages["base"]["parameters"], 128256 * 4096
    assert alone["activations"] == 2 * four["activations"]
    assert stages["alone"]["tokens"] == 2 * stages["four"]["tokens"] == 10 * 16 * 8 * 512
    assert ("frozen" in alone, pulled["frozen"]) == (False, 2 * parameters)
    assert tuned["frozen"] == 2 * parameters + 4 * (parameters - head)
    assert tuned["moments"] == 2 * alone["moments"]
    assert stages["tuned"]["flopsPerToken"] == 4 * 2 * stages["alone"]["flopsPerToken"]
    assert stages["tuned"]["checkpointBytes"] == 2 * stages["alone"]["checkpointBytes"]
