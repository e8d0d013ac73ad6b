"""However a global batch is cut and wherever the state lies, training is the same: losses agree to 1e-6 in fp32."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from torch.nn.functional import cross_entropy
from training import (
    TINY,
    TINY_GPT2_WITH_DROPOUT,
    Ranks,
    a_job,
    committed,
    held_out_losses,
    losses,
    metric_lines,
    shard_digests,
)
from trainyard_api.checkpoint import read_manifest
from trainyard_api.storage import Files
from trainyard_api.training_stages import PretrainStage
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.checkpoint.tensors import Shards, Stored
from trainyard_trainer.checkpoint.trained import load_trained
from trainyard_trainer.data.objectives.next_token import NextToken
from trainyard_trainer.data.objectives.objective import Sample
from trainyard_trainer.data.order import Order
from trainyard_trainer.engine.batches import Batches
from trainyard_trainer.group import Group
from warm_ranks import WarmRanks

KNOWN = Path(__file__).with_name("known_curve.json")
SCRIPT = str(Path(__file__).with_name("several_trainings.py"))


def of(zero: int, micro_batch: int = 2, **zero_settings: Any) -> dict[str, Any]:
    return TINY | {
        "microBatch": micro_batch,
        "deepspeed": {"zero_optimization": {"stage": zero, **zero_settings}},
    }


ADAPTERS = of(2) | {"model": {"stage": "base", "lora": {"rank": 4, "alpha": 64, "dropout": 0.1}}}
"""Another stage, that adapts the model of an earlier one."""

AFTER = of(3) | {"model": {"stage": "base"}}
"""Another stage, with the weights of an earlier one."""

TWO_RANKS: dict[str, dict[str, Any]] = {
    "zero 0, accumulating 2": {"settings": of(0)},
    "zero 0, accumulating 4": {"settings": of(0, micro_batch=1)},
    "zero 1, accumulating 2": {"settings": of(1)},
    "zero 2, accumulating 2": {"settings": of(2)},
    "zero 2, accumulating 1": {"settings": of(2, micro_batch=4)},
    "zero 3, accumulating 2": {"settings": of(3)},
    "zero 3, every parameter partitioned": {"settings": of(3, stage3_param_persistence_threshold=0)},
    "from zero 0 to 2": {"settings": of(2), "fork": {"name": "zero 0, accumulating 2", "step": 2}},
    "from zero 2 to 3": {"settings": of(3), "fork": {"name": "zero 2, accumulating 2", "step": 2}},
    "from zero 3 to 1": {
        "settings": of(1),
        "fork": {"name": "zero 3, every parameter partitioned", "step": 2},
    },
    "from zero 3 to 3": {"settings": of(3), "fork": {"name": "zero 3, accumulating 2", "step": 2}},
    "from zero 1 to 1": {"settings": of(1), "fork": {"name": "zero 1, accumulating 2", "step": 2}},
    "from zero 0 to 0": {"settings": of(0), "fork": {"name": "zero 0, accumulating 2", "step": 2}},
    "with the weights of zero 2": {"settings": AFTER, "weights": "zero 2, accumulating 2"},
    "one step with the weights of zero 2": {"settings": AFTER | {"steps": 1}, "weights": "zero 2, accumulating 2"},
    "with the weights of zero 2, resumed": {
        "settings": AFTER,
        "weights": "zero 2, accumulating 2",
        "fork": {"name": "with the weights of zero 2", "step": 2},
    },
    "sequences on two ranks": {"settings": of(0) | {"sequenceParallel": 2}},
    "sequences on two ranks, zero 3, layers run again": {
        "settings": of(3, stage3_param_persistence_threshold=0)
        | {"sequenceParallel": 2, "activationCheckpointing": True}
    },
    "from whole sequences to shared ones": {
        "settings": of(2) | {"sequenceParallel": 2},
        "fork": {"name": "zero 2, accumulating 2", "step": 2},
    },
    "layers run again": {"settings": of(2) | {"activationCheckpointing": True}},
    "adapters": {"settings": ADAPTERS, "weights": "zero 2, accumulating 2"},
    "adapters, resumed": {
        "settings": ADAPTERS,
        "weights": "zero 2, accumulating 2",
        "fork": {"name": "adapters", "step": 2},
    },
    "bf16 on zero 2": {
        "settings": of(2) | {"deepspeed": {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2}}}
    },
}
ONE_RANK: dict[str, dict[str, Any]] = {
    "one rank, zero 0": {"settings": of(0, micro_batch=8)},
    "one rank, zero 2": {"settings": of(2)},
    "a known curve": {"settings": of(0, micro_batch=8) | {"steps": 30, "checkpoint": {"everySteps": 30}}},
    "from two ranks to one": {"settings": of(2), "fork": {"name": "zero 2, accumulating 2", "step": 2}},
    "from two ranks to one, zero 3": {"settings": of(3), "fork": {"name": "zero 3, accumulating 2", "step": 2}},
}
REFERENCE = "one rank, zero 0"
FROM_THE_SEED_IN_FP32 = [
    name
    for name, training in (TWO_RANKS | ONE_RANK).items()
    if name not in (REFERENCE, "bf16 on zero 2", "a known curve") and "weights" not in training
]


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each training."""
    output = tmp_path_factory.mktemp("trained")
    job = a_job("pretrain", output, TINY, {"data": corpus})
    for world_size, trainings in ((2, TWO_RANKS), (1, ONE_RANK)):
        todo = json.dumps([{"name": name, **training} for name, training in trainings.items()])
        Ranks(job, world_size, attempt=world_size, script=(SCRIPT, todo)).succeed()
    return output


@pytest.mark.parametrize("name", FROM_THE_SEED_IN_FP32)
def test_losses_agree(trained: Path, name: str) -> None:
    reference, got = losses(trained / REFERENCE), losses(trained / name)
    assert got == pytest.approx({step: reference[step] for step in got}, abs=1e-6)
    assert held_out_losses(trained / name)[4] == pytest.approx(held_out_losses(trained / REFERENCE)[4], abs=1e-6)


def test_two_pairs_of_ranks_share_sequences_of_a_model_with_learned_positions(corpus: Path, tmp_path: Path) -> None:
    gpt2 = TINY_GPT2_WITH_DROPOUT["config"] | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0)
    settings = of(1, micro_batch=4) | {"model": {"type": "gpt2", "config": gpt2}, "steps": 3}
    shared, whole = (
        WarmRanks(a_job("pretrain", tmp_path / name, settings | {"sequenceParallel": parts}, {"data": corpus}), world)
        for name, parts, world in (("shared", 2, 4), ("whole", 1, 1))
    )
    shared.succeed()
    whole.succeed()
    assert losses(shared.output) == pytest.approx(losses(whole.output), abs=1e-6)
    assert held_out_losses(shared.output)[3] == pytest.approx(held_out_losses(whole.output)[3], abs=1e-6)
    configs = [read_artifact(ranks.output, "pretrain")["details"]["model"] for ranks in (shared, whole)]
    assert configs[0] == configs[1]


SHARED_LAYERS: dict[str, dict[str, Any]] = {
    "whole": {},
    "on two ranks": {"tensorParallel": 2},
    "on two ranks, zero 2": {"tensorParallel": 2, "deepspeed": {"zero_optimization": {"stage": 2}}},
    "on two pairs of ranks": {"tensorParallel": 2, "microBatch": 2},
    "on two pairs of ranks, zero 1": {"tensorParallel": 2, "deepspeed": {"zero_optimization": {"stage": 1}}},
}


def sharing(corpus: Path, output: Path, name: str, attempt: int = 1) -> Ranks:
    settings = of(0, micro_batch=4) | {"model": FAMILIES["qwen3"]} | SHARED_LAYERS[name]
    world_size = 1 if name == "whole" else 4 if "pairs" in name else 2
    return WarmRanks(a_job("pretrain", output, settings, {"data": corpus}), world_size, attempt)


@pytest.fixture(scope="module")
def sharing_layers(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each training."""
    folder = tmp_path_factory.mktemp("sharing")
    for name in SHARED_LAYERS:
        sharing(corpus, folder / name, name).succeed()
    return folder


@pytest.mark.parametrize("name", [name for name in SHARED_LAYERS if name != "whole"])
def test_shared_layers_are_as_whole_ones(sharing_layers: Path, name: str) -> None:
    whole, shared = (
        [line for line in metric_lines(sharing_layers / each) if "loss" in line] for each in ("whole", name)
    )
    for wanted, got in zip(whole, shared, strict=True):
        assert got["loss"] == pytest.approx(wanted["loss"], abs=1e-6)
        assert got["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-5)
    assert held_out_losses(sharing_layers / name)[4] == pytest.approx(
        held_out_losses(sharing_layers / "whole")[4], abs=1e-6
    )
    one, other = (load_trained(sharing_layers / each).model.state_dict() for each in ("whole", name))
    for parameter, values in one.items():
        torch.testing.assert_close(other[parameter], values, atol=1e-5, rtol=1e-4)


RESUMED = {
    "to the same ones": ("on two ranks", "on two ranks"),
    "to the same ones of zero 1": ("on two pairs of ranks, zero 1", "on two pairs of ranks, zero 1"),
    "from whole ones": ("whole", "on two ranks, zero 2"),
    "to whole ones": ("on two pairs of ranks, zero 1", "whole"),
    "to another ZeRO stage": ("on two ranks, zero 2", "on two pairs of ranks"),
}


@pytest.mark.parametrize(("before", "after"), RESUMED.values(), ids=RESUMED)
def test_a_checkpoint_of_shared_layers_loads_anywhere(
    sharing_layers: Path, corpus: Path, tmp_path: Path, before: str, after: str
) -> None:
    [checkpoint] = (sharing_layers / before).glob("checkpoints/step-00000002-a*")
    shutil.copytree(checkpoint, tmp_path / "base/checkpoints" / checkpoint.name)
    ranks = sharing(corpus, tmp_path / "base", after, attempt=2)
    ranks.succeed()
    wanted = losses(sharing_layers / after)
    assert losses(ranks.output) == pytest.approx({step: wanted[step] for step in (3, 4)}, abs=1e-6)
    if before == after:
        assert shard_digests(ranks.output, 4) == shard_digests(sharing_layers / after, 4)


@pytest.mark.parametrize("name", FROM_THE_SEED_IN_FP32)
def test_gradient_norms_agree(trained: Path, name: str) -> None:
    reference = {line["step"]: line["grad_norm"] for line in metric_lines(trained / REFERENCE) if "loss" in line}
    for line in metric_lines(trained / name):
        if "loss" in line:
            assert line["grad_norm"] == pytest.approx(reference[line["step"]], rel=1e-5)


@pytest.mark.parametrize(
    ("resumed", "undisturbed"),
    [
        ("from zero 0 to 0", "zero 0, accumulating 2"),
        ("with the weights of zero 2, resumed", "with the weights of zero 2"),
        ("adapters, resumed", "adapters"),
        ("layers run again", "zero 2, accumulating 2"),
        ("from zero 1 to 1", "zero 1, accumulating 2"),
        ("from zero 3 to 3", "zero 3, accumulating 2"),
    ],
)
def test_resuming_in_the_same_layout_is_equal_to_the_bit(trained: Path, resumed: str, undisturbed: str) -> None:
    assert shard_digests(trained / resumed, 4) == shard_digests(trained / undisturbed, 4)


def test_another_stage_begins_with_the_weights_that_the_one_before_ended_with(trained: Path, corpus: Path) -> None:
    stage = PretrainStage.model_validate(TINY)
    group = Group(a_job("pretrain", trained, TINY, {}), 1, 0, 1, 0, trained, {})
    objective = NextToken(stage.sequence_length, begin=0)
    first_batch = [*Batches({"data": objective.open(corpus / "train")}, objective, stage, group).micro_batches(1)]
    model = load_trained(trained / "zero 2, accumulating 2").model
    with torch.no_grad():
        logits_NV = torch.cat([model(**micro.inputs).logits.flatten(0, 1) for micro in first_batch])
    expected = float(cross_entropy(logits_NV, torch.cat([micro.labels.flatten() for micro in first_batch])))
    got = losses(trained / "with the weights of zero 2")
    assert got[1] == pytest.approx(expected, abs=1e-6)
    assert got[1] != pytest.approx(losses(trained / REFERENCE)[1], abs=1e-3)


def test_adapters_begin_as_the_model_that_they_adapt_and_are_merged_into_it(trained: Path) -> None:
    base, adapted = (load_trained(trained / name).model for name in ("zero 2, accumulating 2", "adapters"))
    assert losses(trained / "adapters")[1] == pytest.approx(losses(trained / "with the weights of zero 2")[1], abs=1e-6)
    before, after = base.state_dict(), adapted.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}


def test_what_adapters_are_merged_into_has_the_loss_that_they_had(trained: Path, corpus: Path) -> None:
    stage = PretrainStage.model_validate(TINY)
    objective = NextToken(stage.sequence_length, begin=0)
    rows = objective.open(corpus / "held-out")
    model = load_trained(trained / "adapters").model
    measured_on = Order(0, len(rows)).samples(0, stage.validation.sequences).tolist()
    batch = objective.batch([Sample(rows, row, row) for row in measured_on])
    with torch.no_grad():
        logits_BTV = model(**batch.inputs).logits
    expected = held_out_losses(trained / "adapters")[4]
    assert float(cross_entropy(logits_BTV.flatten(0, 1), batch.labels.flatten())) == pytest.approx(expected, abs=1e-5)


def test_another_stage_begins_at_step_0_without_moments(trained: Path) -> None:
    """After a single step each moment is that step's gradient, and nothing of those of the stage before."""
    checkpoint = Files(committed(trained / "one step with the weights of zero 2", 1))
    manifest = read_manifest(checkpoint)
    shards = Shards([Stored(checkpoint, shard.file, shard.bytes) for shard in manifest.shards])
    for name, shape in manifest.parameters.items():
        mean, mean_of_squares = (shards.read(kind, name, 0, math.prod(shape)) for kind in ("exp_avg", "exp_avg_sq"))
        assert torch.allclose(mean_of_squares / (1 - 0.95), (mean / (1 - 0.9)) ** 2, rtol=1e-5, atol=0), name


def test_an_untrained_model_is_as_wrong_as_chance(trained: Path) -> None:
    assert losses(trained / REFERENCE)[1] == pytest.approx(math.log(300), abs=0.05)


def test_a_known_curve_repeats_to_the_bit(trained: Path) -> None:
    """On the build that it was recorded on. On others it is compared in five digits with one that was."""
    with open("/proc/cpuinfo") as cpuinfo:
        about = dict(line.split(":", 1) for line in cpuinfo.read().split("\n\n")[0].replace("\t", "").splitlines())
    processor = " ".join(about.get(field, "").strip() for field in ("vendor_id", "cpu family", "model"))
    build = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {processor}"
    known: dict[str, list[str]] = json.loads(KNOWN.read_text())
    got = [loss.hex() for loss in losses(trained / "a known curve").values()]
    if build in known:
        line = json.dumps({build: got})
        assert got == known[build], f"a change that is meant to change numbers puts this into {KNOWN.name}: {line}"
    curve = [float.fromhex(each) for each in next(iter(known.values()))]
    assert [float.fromhex(each) for each in got] == pytest.approx(curve, rel=1e-5)


def test_training_learns(trained: Path) -> None:
    got = losses(trained / REFERENCE)
    assert got[4] < got[1]


def test_bf16_stays_near_fp32(trained: Path) -> None:
    assert losses(trained / "bf16 on zero 2") == pytest.approx(losses(trained / REFERENCE), abs=0.02)
