"""Documents that share a row are to the model as if each had a row of its own: logits and gradients, in every family."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES
from torch.nn.functional import cross_entropy
from trainyard_api.objectives import OBJECTIVES
from trainyard_api.training_stages import ModelSettings
from trainyard_trainer.data.batch import IGNORED, Batch
from trainyard_trainer.data.objectives.choose import completed, objective_of
from trainyard_trainer.data.objectives.objective import Objective, Sample
from trainyard_trainer.data.shards import TARGETS, ShardWriter, token_dtype
from trainyard_trainer.data.special_tokens import SpecialTokens
from trainyard_trainer.models.build import build_model, model_config
from transformers import PreTrainedModel

LENGTH = 32
DOCUMENTS = [70, 11, 9, 12, 5, 20, 3, 1, 2, 33, 7, 7]
"""Tokens of each, its end included: two are longer than a row."""
PAIRS = [(20, 4), (3, 11), (32, 32), (9, 9), (8, 21), (5, 1), (4, 8)]
TEXT = SpecialTokens(begin=0, end=0, pad=None, mask=None, sentinels=(), size=99)
CASES = [(family, objective) for family in FAMILIES for objective in OBJECTIVES[family]]


def a_split(folder: Path, documents: list[int], shift: int = 0) -> Path:
    draw = np.random.default_rng(3 + shift)
    with ShardWriter(folder, token_dtype(99), shard_tokens=64) as writer:
        for length in documents:
            writer.write([*draw.integers(1, 99, length - 1), 0], num_bytes=length)
    return folder


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_split(tmp_path_factory.mktemp("packed") / "train", DOCUMENTS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = a_split(tmp_path_factory.mktemp("pairs") / "train", [source for source, _ in PAIRS])
    a_split(folder / TARGETS, [target for _, target in PAIRS], shift=1)
    return folder


def built(family: str, objective: str) -> tuple[PreTrainedModel, Objective]:
    tokens, _ = completed(TEXT, family, LENGTH)
    settings = ModelSettings.model_validate(FAMILIES[family])
    config = model_config(settings, vocab_size=tokens.size, end_of_text=0, sequence_length=LENGTH)
    model = build_model(config, seed=1)
    with torch.no_grad():  # first weights hardly tell positions apart
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 and family != "t5" else 1)
    return model.train(), objective_of(objective, config, tokens, LENGTH, seed=5)


@pytest.mark.parametrize(("family", "name"), CASES, ids=[f"{family}, {name}" for family, name in CASES])
def test_packed_equals_unpacked(split: Path, pairs: Path, family: str, name: str) -> None:
    model, objective = built(family, name)
    rows = objective.open(pairs if name == "SequenceToSequence" else split)
    together = objective.batch([Sample(rows, number, number) for number in range(len(rows))])
    alone = [one for row in range(len(rows)) for one in apart(objective.batch([Sample(rows, row, row)]))]
    assert len(alone) > len(rows)
    assert sum(one.num_labels for one in alone) == together.num_labels > 0

    packed_logits, packed_gradients = measured(model, [together])
    logits, gradients = measured(model, alone)
    assert logits.std() > 0.1
    assert torch.allclose(packed_logits, logits, atol=1e-5, rtol=1e-5)
    assert {*gradients} == {name for name, _ in model.named_parameters()}
    for parameter, gradient in gradients.items():
        assert torch.allclose(packed_gradients[parameter], gradient, atol=1e-5, rtol=1e-4), parameter


def apart(row: Batch) -> Iterator[Batch]:
    """Each document of a row alone, without a mask, found by its segment or where positions begin anew."""
    inputs = {name: each[0] for name, each in row.inputs.items()}
    if "decoder_input_ids" not in inputs:
        starts = [*torch.nonzero(inputs["position_ids"] == 0).flatten().tolist(), LENGTH]
        for start, stop in pairwise(starts):
            yield Batch({"input_ids": inputs["input_ids"][None, start:stop]}, row.labels[:, start:stop])
        return
    for segment in range(int(inputs["segment_ids"].max()) + 1):
        read, said = inputs["segment_ids"] == segment, inputs["decoder_segment_ids"] == segment
        alone = {
            "input_ids": inputs["input_ids"][None, read],
            "decoder_input_ids": inputs["decoder_input_ids"][None, said],
        }
        yield Batch(alone, row.labels[:, said])


def measured(model: PreTrainedModel, batches: list[Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits where there is a label, by label and value, and the gradients of the mean loss."""
    model.zero_grad()
    logits, labels = [], []
    for batch in batches:
        logits.append(model(**batch.inputs, use_cache=False).logits[batch.labels != IGNORED])
        labels.append(batch.labels[batch.labels != IGNORED])
    found, wanted = torch.cat(logits), torch.cat(labels)
    cross_entropy(found, wanted).backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    order = np.lexsort((found.detach()[:, 1].numpy(), found.detach()[:, 0].numpy().round(3), wanted.numpy()))
    return found.detach()[order], gradients


def test_a_wrong_mask_would_be_noticed(split: Path) -> None:
    """What the test above compares does differ where documents see each other."""
    model, objective = built("bert", "MaskedLM")
    rows = objective.open(split)
    batch = objective.batch([Sample(rows, len(rows) - 1, 0)])
    seeing = Batch({name: each for name, each in batch.inputs.items() if name != "segment_ids"}, batch.labels)
    assert not torch.allclose(measured(model, [batch])[0], measured(model, [seeing])[0], atol=1e-3)


def test_of_one_document_a_row_there_is_no_mask(split: Path) -> None:
    """So that the causal kernel runs, or none is looked at in vain."""
    _, objective = built("bert", "MaskedLM")
    rows = objective.open(split)
    assert "segment_ids" not in objective.batch([Sample(rows, 0, 0)]).inputs
    assert "segment_ids" in objective.batch([Sample(rows, len(rows) - 1, 0)]).inputs
