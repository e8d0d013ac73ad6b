"""torch.compile: nobody takes it for a hang, and where it can't be it says so."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training import TINY, a_job
from trainyard_trainer.engine.compiling import refuse_without_compiler, tell_of_compiling
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.group import Group
from trainyard_trainer.models.kernels import use_liger
from trainyard_trainer.pulse import Pulse


def test_a_rank_says_that_it_compiles_for_as_long_as_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = tmp_path / "reports"
    with reports.open("wb") as file:
        monkeypatch.setenv("TRAINYARD_REPORT_FD", str(file.fileno()))
        pulse = Pulse(Group(a_job("pretrain", tmp_path, TINY, {}), 1, 0, 1, 0, tmp_path, {}))
        pulse.beat("working", 3)
        tell_of_compiling(pulse)
        function = torch.compile(lambda x: x * 2 + 1, backend="eager")
        function(torch.ones(3))
        function(torch.ones(3))
    said = [json.loads(line)["beat"] for line in reports.read_text().splitlines()]
    assert [each["activity"] for each in said] == ["working", "compiling", "working"]
    assert {each["step"] for each in said} == {3}


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(PermanentError, match=r"pretrain\.compile: .*C\+\+ compiler.*leave compile out"):
        refuse_without_compiler(torch.device("cpu"))


def test_kernels_for_gpus_are_refused_without_one() -> None:
    model: Any = torch.nn.Linear(1, 1)
    with pytest.raises(PermanentError, match=r"pretrain\.kernels: Liger's are .*trains on cpu; use Torch"):
        use_liger(model, torch.device("cpu"))
