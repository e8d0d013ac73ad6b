"""What models are trained to say, against counts and references worked out apart from the code that makes it."""

import math
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainyard_trainer.data.batch import IGNORED
from trainyard_trainer.data.objectives.masked_lm import MaskedLM
from trainyard_trainer.data.objectives.next_token import NextToken
from trainyard_trainer.data.objectives.objective import Objective, Sample, generator
from trainyard_trainer.data.objectives.sequence_to_sequence import SequenceToSequence
from trainyard_trainer.data.objectives.span_corruption import SpanCorruption, left_over, sentinels_needed
from trainyard_trainer.data.shards import TARGETS, ShardWriter, TokenShards, token_dtype
from trainyard_trainer.errors import PermanentError

VOCABULARY, MASK, LENGTH = 1000, 1000, 128
SENTINELS = range(1001, 1101)
MASKED_LM = MaskedLM(LENGTH, begin=0, end=0, mask=MASK, vocab_size=VOCABULARY + 1, seed=3)
SPANS = SpanCorruption(LENGTH, start=0, end=0, sentinels=SENTINELS, seed=3)


def a_split(folder: Path, documents: list[list[int]]) -> Path:
    with ShardWriter(folder, token_dtype(VOCABULARY), shard_tokens=5000) as writer:
        for tokens in documents:
            writer.write([*tokens, 0], num_bytes=len(tokens))
    return folder


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(0)
    lengths = draw.lognormal(4, 1, 800).astype(int) + 1
    documents = [draw.integers(1, VOCABULARY, length).tolist() for length in lengths]
    return a_split(tmp_path_factory.mktemp("objectives") / "train", documents)


def all_of(objective: Objective, split: Path) -> tuple[torch.Tensor, torch.Tensor]:
    rows = objective.open(split)
    batch = objective.batch([Sample(rows, number, number) for number in range(len(rows))])
    return batch.inputs["input_ids"], batch.labels


def test_the_next_token_of_every_token_is_asked_for_once(split: Path) -> None:
    tokens = TokenShards(split)
    inputs_BT, labels_BT = all_of(NextToken(LENGTH, begin=0), split)
    counted = labels_BT != IGNORED
    assert sorted(labels_BT[counted].tolist()) == sorted(tokens.window(0, len(tokens)).tolist())
    stream = [0, *tokens.window(0, len(tokens)).tolist()]
    followed = {*pairwise(stream)}
    assert {*zip(inputs_BT[counted].tolist(), labels_BT[counted].tolist(), strict=True)} == followed


def test_masked_tokens_are_15_percent_of_each_row_of_which_80_10_and_10_percent_are_masked_changed_and_kept(
    split: Path,
) -> None:
    inputs_BT, labels_BT = all_of(MASKED_LM, split)
    told_BT = labels_BT != IGNORED
    originals_BT = torch.where(told_BT, labels_BT, inputs_BT)
    candidates_B = (originals_BT != 0).sum(1)
    assert torch.all((told_BT.sum(1) - 0.15 * candidates_B).abs() <= 0.5 + 1e-6)
    assert not (originals_BT[told_BT] == 0).any(), "neither begins nor ends are asked for"
    assert not (inputs_BT[~told_BT] == MASK).any()

    many = int(told_BT.sum())
    assert many > 5000
    masked, kept = inputs_BT[told_BT] == MASK, inputs_BT[told_BT] == labels_BT[told_BT]
    changed = ~masked & ~kept
    for share, found in ((0.8, masked), (0.1, changed), (0.1, kept)):
        assert abs(float(found.double().mean()) - share) < 5 * math.sqrt(share * (1 - share) / many)
    others = inputs_BT[told_BT][changed]
    assert 0 < int(others.min()) < 50
    assert VOCABULARY - 50 < int(others.max()) < VOCABULARY

    tokens = TokenShards(split)
    words = originals_BT[originals_BT != 0]
    assert sorted(words.tolist()) == sorted(token for token in tokens.window(0, len(tokens)).tolist() if token)
    places = told_BT[:20].double().mean(0)
    assert float(places[2:60].std()) < 0.12, "as likely at one place as at another"


def test_text_comes_back_whole_from_corrupted_spans_and_what_they_stood_for(split: Path) -> None:
    rows = SPANS.open(split)
    tokens, taken, spans, all_tokens = rows.tokens, 0, 0, 0
    for number in range(len(rows)):
        batch = SPANS.batch([Sample(rows, number, number)])
        inputs = batch.inputs
        cross = inputs["decoder_segment_ids"][0, :, None] == inputs["segment_ids"][0, None, :]
        read_T, said = batch.inputs["input_ids"][0], batch.labels[0]
        pieces = rows.row(number)
        at = after = 0
        for piece in pieces:
            original = tokens.window(piece.start, piece.length)
            size = int(left_over(np.array([piece.length]))[0])
            read, start = read_T[at : at + size].tolist(), after
            after += said[after:].tolist().index(0) + 1
            answer = said[start:after].tolist()
            assert cross[start:after].nonzero()[:, 1].unique().tolist() == [*range(at, at + size)]
            assert batch.inputs["decoder_input_ids"][0, start:after].tolist() == [0, *answer[:-1]]
            assert back(read, answer) == original.tolist()
            here = sum(token in SENTINELS for token in read)
            taken, spans, all_tokens = taken + len(answer) - here, spans + here, all_tokens + piece.length - 1
            at += size
    assert taken / all_tokens == pytest.approx(0.15, abs=0.01)
    assert taken / spans == pytest.approx(3, abs=0.3)
    assert rows.real >= 0.99


def back(read: list[int], answer: list[int]) -> list[int]:
    """The text, each sentinel replaced by what the answer, whose end is taken off, has for it."""
    assert answer.pop() == 0
    stood_for: dict[int, list[int]] = {}
    for token in answer:
        if token in SENTINELS:
            sentinel = token
            stood_for[sentinel] = []
        else:
            stood_for[sentinel].append(token)
    assert [*stood_for] == [token for token in read if token in SENTINELS] == [*SENTINELS][: len(stood_for)]
    assert all(stood_for.values())
    return [token for each in read for token in stood_for.get(each, [each])]


@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_any_piece_can_be_corrupted(length: int, draw: int) -> None:
    objective = SpanCorruption(4096, start=0, end=0, sentinels=range(10_000, 20_000), seed=0)
    tokens = np.arange(1, length + 1)
    read, said = objective.corrupt(tokens, generator(0, draw))
    assert len(read) == left_over(np.array([length]))[0] <= length
    spans = int((read >= 10_000).sum())
    assert spans == sentinels_needed(length)
    assert read[-1] == length, "the last token is kept"
    assert sorted([*read[read < 10_000], *said[(said < 10_000) & (said > 0)]]) == tokens.tolist()
    assert not ((read[1:] >= 10_000) & (read[:-1] >= 10_000)).any(), "two spans never touch"


def test_spans_lie_anywhere_alike() -> None:
    objective = SpanCorruption(64, start=0, end=0, sentinels=range(100, 200), seed=0)
    taken = np.zeros(30)
    for draw in range(4000):
        read, _ = objective.corrupt(np.arange(30), generator(0, draw))
        taken += ~np.isin(np.arange(30), read)
    assert taken[-1] == 0
    inside = taken[3:-4] / 4000  # a span of four tokens reaches those further out from one side alone
    assert np.all(np.abs(inside - 4 / 26) < 0.02)


def test_masks_are_of_seed_and_place_in_the_order_alone(split: Path) -> None:
    for objective in (MASKED_LM, SPANS):
        rows = objective.open(split)
        whole = objective.batch([Sample(rows, row, row + 7) for row in range(4)])
        last = objective.batch([Sample(rows, 3, 10)])
        assert torch.equal(last.inputs["input_ids"][0], whole.inputs["input_ids"][3])
        next_epoch = objective.batch([Sample(rows, 3, 10 + len(rows))])
        assert not torch.equal(last.inputs["input_ids"], next_epoch.inputs["input_ids"])


def test_pairs_are_read_and_said_whole(tmp_path: Path) -> None:
    sources = [[1, 2, 3], [4] * 100, [5], [6] * 20]
    targets = [[10], [11, 12], [13] * 90, [14] * 20]
    folder = a_split(tmp_path / "train", sources)
    a_split(folder / TARGETS, targets)
    objective = SequenceToSequence(LENGTH, start=0)
    rows = objective.open(folder)
    assert len(rows) == 2
    batch = objective.batch([Sample(rows, number, 0) for number in range(2)])
    read, said = batch.inputs["input_ids"], batch.labels
    assert sorted(read[read != 0].tolist()) == sorted(chain(*sources))
    assert sorted(said[said > 0].tolist()) == sorted(chain(*targets))
    assert batch.num_labels == sum(map(len, targets)) + 4

    with pytest.raises(PermanentError, match=r"sequenceLength: 2 of 4 pairs are longer than 64 .*use at least 101"):
        SequenceToSequence(64, start=0).open(folder)
    with pytest.raises(PermanentError, match=r"pretrain\.objective: .*prepare\.sources\[0\]\.targetField"):
        objective.open(a_split(tmp_path / "plain", sources))


def test_a_row_that_needs_more_sentinels_than_there_are_is_refused(split: Path) -> None:
    with pytest.raises(PermanentError, match=r"pretrain\.sequenceLength: 128 needs 7 sentinels, and there are 3"):
        SpanCorruption(LENGTH, start=0, end=0, sentinels=range(3), seed=0).open(split)
