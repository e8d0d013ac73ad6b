"""Global batches of a mixture, from real token shards; and parts that can't be mixed are refused by name."""

from pathlib import Path

import pytest
import torch
from preparing import put, run_prepare
from training import TINY, a_corpus, a_job
from trainyard_api.training_stages import PretrainStage
from trainyard_trainer.data.objectives.next_token import NextToken
from trainyard_trainer.data.objectives.objective import Sample
from trainyard_trainer.engine.batches import Batches
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.group import Group
from trainyard_trainer.stages.training import refuse_mixed_tokenizers

OUTPUT = Path("/storage/base")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """corpus; code and more with the tokenizer of corpus; alien and strange with tokenizers of their own."""
    storage = tmp_path_factory.mktemp("prepared")
    a_corpus(storage)
    put(storage / "programs", {f"{n}.txt": f"def f{n}(x):\n    return x + {n}\n" * 20 for n in range(8)})
    for name in ("code", "more"):
        run_prepare(storage, {"path": "programs"}, out=name, tokenizer={"stage": "corpus"})
    for name in ("alien", "strange"):
        run_prepare(storage, {"path": "programs"}, out=name)
    return storage


def mixed(*names: str) -> PretrainStage:
    settings = {name: value for name, value in TINY.items() if name != "data"}
    return PretrainStage.model_validate(settings | {"mixture": [{"data": name, "weight": 2} for name in names]})


def test_a_global_batch_holds_the_same_sequences_to_the_bit_for_any_number_of_ranks(storage: Path) -> None:
    stage = mixed("corpus", "code")
    objective = NextToken(stage.sequence_length, begin=0)
    splits = {field: objective.open(storage / part.data / "train") for field, part in stage.parts.items()}
    job = a_job("pretrain", OUTPUT, stage.wire(), {})

    def rows(world_size: int, step: int) -> torch.Tensor:
        ranks = [
            Batches(splits, objective, stage, Group(job, 1, rank, world_size, rank, OUTPUT, {}))
            for rank in range(world_size)
        ]
        return torch.cat([micro.labels for rank in ranks for micro in rank.micro_batches(step)])

    for step in (1, 2, 1000):
        whole = rows(1, step)
        assert whole.shape == (stage.global_batch, stage.sequence_length)
        assert torch.equal(whole, rows(2, step))
        assert torch.equal(whole, rows(4, step))
        for split in splits.values():
            labels = [objective.batch([Sample(split, row, 0)]).labels[0].tolist() for row in range(len(split))]
            assert sum(row in labels for row in whole.tolist()) == stage.global_batch / 2


MIXTURES = {
    "one part has other tokens": (
        ("corpus", "code", "alien"),
        r"pretrain\.mixture: alien \(mixture\[2\]\.data\) has other tokens than corpus \(mixture\[0\]\.data\); "
        r"set prepare\.tokenizer\.stage: corpus there",
    ),
    "two parts have other tokens": (
        ("corpus", "alien", "strange", "more"),
        r"alien \(mixture\[1\]\.data\), strange \(mixture\[2\]\.data\) have other tokens than corpus",
    ),
}


@pytest.mark.parametrize(("names", "message"), MIXTURES.values(), ids=MIXTURES.keys())
def test_parts_with_other_tokens_are_named(storage: Path, names: tuple[str, ...], message: str) -> None:
    stage = mixed(*names)
    with pytest.raises(PermanentError, match=message):
        refuse_mixed_tokenizers(stage, {field: storage / part.data for field, part in stage.parts.items()})


def test_a_validation_set_with_other_tokens_is_named(storage: Path) -> None:
    stage = PretrainStage.model_validate(TINY | {"validation": {"sets": [{"data": "code"}, {"data": "alien"}]}})
    named = {"data": "corpus"} | stage.validation_sets
    message = r"pretrain\.validation\.sets: alien \(validation\.sets\[1\]\.data\) has other tokens than corpus \(data\)"
    with pytest.raises(PermanentError, match=message):
        refuse_mixed_tokenizers(stage, {field: storage / name for field, name in named.items()})


def test_parts_with_the_same_tokens_are_mixed(storage: Path) -> None:
    stage = mixed("code", "corpus", "more")
    refuse_mixed_tokenizers(stage, {field: storage / part.data for field, part in stage.parts.items()})
