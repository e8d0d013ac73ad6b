"""What one ZeRO stage and world size saved, any other loads, to the last bit; and training goes on as if nothing had been.

The step after loading is compared with the one that the saving layout took itself; before it two batches are left out, which
must not show. Other layouts add up gradients in another order: they agree to 1e-6 in fp32, and in bf16 as far as its eight
bits go.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from layouts import BEGUN_FROM, LOADED, SPLIT, Layout, Training
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

SCRIPT = Path(__file__).with_name("layout_ranks.py")
FP32_TOLERANCE = 1e-6
BF16_TOLERANCE = 8 * 2.0**-8
"""Relative to the largest value. One rounding is 2⁻⁸; what was measured is at most 3.4 of them, on a gradient's mean."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each training."""
    root = tmp_path_factory.mktemp("layouts")
    environment = os.environ | {
        "PATH": "/nowhere",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run([sys.executable, SCRIPT, root], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return root


@cache
def state(root: Path, training: Training, step: int) -> dict[str, Tensor]:
    """Loss and whole state, `kind/parameter` → flat fp32, after a step."""
    return load_file(root / str(training) / f"{step}.safetensors")


@pytest.mark.parametrize("training", LOADED, ids=str)
def test_what_is_loaded_is_what_was_saved(trained: Path, training: Training) -> None:
    assert training.begin
    saved, loaded = (dict(state(trained, each, training.start)) for each in (training.begin, training))
    del saved["loss"], loaded["loss"]
    assert saved.keys() == loaded.keys()
    assert [name for name in saved if not torch.equal(saved[name], loaded[name])] == []


@pytest.mark.parametrize("training", LOADED, ids=str)
def test_the_next_step_is_the_one_that_would_have_been(trained: Path, training: Training) -> None:
    expected, got = (state(trained, each, training.start + 1) for each in (origin(training), training))
    if training.layout == origin(training).layout:
        assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
        return
    for name in expected:
        largest = float(expected[name].abs().max())
        tolerance = BF16_TOLERANCE * largest if training.layout.bf16 else FP32_TOLERANCE
        assert float((expected[name] - got[name]).abs().max()) <= tolerance, name


SPLITS = [
    *SPLIT,
    *sorted(
        (each for each in BEGUN_FROM if each.layout == Layout(each.layout.zero, each.layout.world) and not each.begin),
        key=str,
    ),
]


@pytest.mark.parametrize("training", SPLITS, ids=str)
def test_the_loss_of_a_global_batch_is_the_same_however_it_is_split(trained: Path, training: Training) -> None:
    """Over micro-batches, accumulation, ranks and ZeRO stages, where each holds another number of labels."""
    whole = Training(Layout(0, 1))
    for step in range(1, training.last + 1):
        expected, got = (float(state(trained, each, step)["loss"]) for each in (whole, training))
        assert got == pytest.approx(expected, abs=FP32_TOLERANCE)


def origin(training: Training) -> Training:
    """The one from the seed that the others go on with."""
    return origin(training.begin) if training.begin else training


def saved_tensors(root: Path, training: Training) -> dict[str, int]:
    """Tensor → how many elements of it all shards of the checkpoint hold together."""
    elements: dict[str, int] = {}
    for shard in (root / str(training)).glob("shard-*"):
        with safe_open(shard, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no dict
                if not key.startswith("stream/"):
                    elements[key] = elements.get(key, 0) + file.get_slice(key).get_shape()[0]
    return elements


@pytest.mark.parametrize(
    "training", sorted((each for each in BEGUN_FROM if each.layout.model == "frozen"), key=str), ids=str
)
def test_frozen_parameters_are_saved_once_and_without_moments(trained: Path, training: Training) -> None:
    elements = saved_tensors(trained, training)
    assert elements["master/embedding.weight"] == 11 * 5
    assert [key for key in elements if key.startswith("exp_avg") and "embedding" in key] == []
    assert elements["exp_avg/head.weight"] == 5 * 11


def test_tied_weights_are_saved_under_one_name(trained: Path) -> None:
    elements = saved_tensors(trained, Training(Layout(2, 2, "tied")))
    assert [key for key in elements if "head" in key] == []
    assert elements["master/embedding.weight"] == 11 * 5


def test_adapters_have_moments_and_their_base_has_none(trained: Path) -> None:
    elements = saved_tensors(trained, Training(Layout(3, 2, "LoRA")))
    with_moments = [key.removeprefix("exp_avg/") for key in elements if key.startswith("exp_avg/")]
    assert len(with_moments) == 4
    assert all("lora_" in name for name in with_moments)
