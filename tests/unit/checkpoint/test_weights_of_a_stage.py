"""What a pretrain stage leaves, taken up by the stages that come after it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import pretrain_connected
from preparing import put, run_prepare
from training import TINY, TINY_GPT2_WITH_DROPOUT, a_job
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.group import Group


@pytest.fixture(scope="module")
def base(device: torch.device, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a pretrain stage: a model with 16 positions."""
    output = tmp_path_factory.mktemp("run") / "base"
    output.mkdir()
    settings = TINY | {"model": TINY_GPT2_WITH_DROPOUT, "steps": 1}
    pretrain_connected(a_group(output, settings, {"data": corpus}), device)
    return output


def a_group(output: Path, settings: dict[str, Any], inputs: dict[str, Path]) -> Group:
    return Group(a_job("pretrain", output, settings, inputs), 1, 0, 1, 0, output, inputs)


def begin(device: torch.device, output: Path, base: Path, data: Path, **settings: Any) -> None:
    further = TINY | {"model": {"stage": "base"}} | settings
    pretrain_connected(a_group(output, further, {"data": data, "model.stage": base}), device)


def test_tokens_must_be_those_that_the_weights_know(device: torch.device, base: Path, tmp_path: Path) -> None:
    put(tmp_path / "texts", {f"{number}.txt": "other words " * 400 + str(number) for number in range(12)})
    run_prepare(tmp_path, {"path": "texts"}, out="other")
    with pytest.raises(
        PermanentError, match=r"pretrain\.model\.stage: base .*other tokens than pretrain\.data has; .*corpus"
    ):
        begin(device, tmp_path / "further", base, tmp_path / "other")


def test_sequences_must_not_be_longer_than_the_model_has_positions(
    device: torch.device, base: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError, match=r"pretrain\.sequenceLength: 32 is more than the 16 positions .*base"):
        begin(device, tmp_path / "further", base, corpus, sequenceLength=32)


def test_a_damaged_model_is_not_begun_with(device: torch.device, base: Path, corpus: Path, tmp_path: Path) -> None:
    [shard] = base.glob("checkpoints/step-*/*.safetensors")
    content = shard.read_bytes()
    try:
        shard.write_bytes(content[:-1])
        with pytest.raises(PermanentError, match=r"train the model again, or restore the folder"):
            begin(device, tmp_path / "further", base, corpus)
    finally:
        shard.write_bytes(content)


ALONE = """
import gc, sys
from pathlib import Path
import torch
from trainyard_trainer.checkpoint.trained import load_trained
model = load_trained(Path(sys.argv[1])).model
assert "deepspeed" not in sys.modules
assert not any(isinstance(each, torch.optim.Optimizer) for each in gc.get_objects())
print(sum(parameter.numel() for parameter in model.parameters()))
"""


def test_weights_are_read_without_optimizer_and_deepspeed(base: Path) -> None:
    """In a process of its own, for this one has them. What transformers imports for its own purposes is its matter."""
    environment = {"PATH": "/nowhere", "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, base], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) == read_artifact(base, "pretrain")["metrics"]["parameters"]
