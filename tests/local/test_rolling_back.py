"""`trainyard run` of a training whose numbers go wrong and that rolls back: the operator has it done, and counts no failure."""

import os
from pathlib import Path
from typing import Any

import pytest
from local_runs import PRETRAIN, events, made, metrics, stored, trainyard, write_run
from preparing import put

BAD, BACK, STEPS = 40, 12, 60
"""The batch that has no number for a loss, the steps to go back, the steps to make."""
SPOILS = f"""
import importlib.abc, importlib.util, sys

class Spoiling(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "trainyard_trainer.stages.training":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_spoil(module):
            execute(module)
            sys.path.append({str(Path(__file__).parent.parent)!r})
            import bad_batches
            bad_batches.spoil(no_number=[{BAD}])

        spec.loader.exec_module = execute_and_spoil
        return spec

sys.meta_path.insert(0, Spoiling())
"""
"""For every Python that is started: where the stage is imported, its batches are bad from then on."""


@pytest.fixture
def spoiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "modules", {"sitecustomize.py": SPOILS})
    paths = [str(tmp_path / "modules"), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.mark.usefixtures("spoiled")
def test_a_run_rolls_back_passes_over_the_data_and_ends_with_nothing_counted_as_a_failure(tmp_path: Path) -> None:
    words = [f"{a}{b}{c}" for a in "bdgkl" for b in "aeiou" for c in "mnrst"]
    put(tmp_path / "texts", {f"{n}.txt": " ".join(words[n:] + words[:n]) * 8 for n in range(30)})
    prepare = {"sources": [{"path": str(tmp_path / "texts")}], "tokenizer": {"vocabSize": 300}}
    pretrain: dict[str, Any] = PRETRAIN | {
        "steps": STEPS,
        "sequenceLength": 16,
        "checkpoint": {"everySteps": 10, "keep": 5},
        "validation": {"everySteps": STEPS, "sequences": 2},
        "numerics": {"nonFinite": "RollBack", "rollBackSteps": BACK},
    }
    stages = [{"name": "corpus", "prepare": prepare}, {"name": "base", "pretrain": pretrain}]
    write_run(tmp_path, stages, recovery={"maxFailures": 0})
    ended = trainyard(tmp_path, "run", "run.yaml", "--plain")
    assert ended.returncode == 0, ended.stdout + ended.stderr

    status = stored(tmp_path)["status"]
    [recovery] = status["recoveries"]
    back_to = recovery["resumedStep"]
    assert (recovery["cause"], recovery["tier"], recovery["step"]) == ("RolledBack", "ranks", BAD - 1)
    assert back_to <= BAD - 1 - BACK
    assert status["restarts"] == {"total": 1, "failures": 0, "disruptions": 0, "hangs": 0, "rollBacks": 1, "ignored": 0}
    told = (
        f"step {BAD}, sequences {4 * (BAD - 1)}–{4 * (BAD - 1) + 1}: loss nan; back to step {BAD - 1 - BACK} or before"
    )
    assert [told in each["message"] for each in events(tmp_path) if each["reason"] == "RolledBack"] == [True]

    trained = {row["step"]: row["position"] // 4 + 1 for row in metrics(tmp_path) if "loss" in row}
    assert [*trained.values()] == [*range(1, back_to + 1), *range(BAD + 1, BAD + 1 + STEPS - back_to)]
    assert (made(tmp_path) / "base" / "artifact.json").exists()
