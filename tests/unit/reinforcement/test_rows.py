"""What the model reads of responses: with their prompt in one row or each by itself, it says the same of every token."""

import pytest
import torch
from tiny_decoders import MODELS, model_of
from trainyard_trainer.data.batch import IGNORED
from trainyard_trainer.reinforcement import rows
from trainyard_trainer.reinforcement.rows import Response, worth_sharing

PROMPTS = [[3, 4, 5, 6], [], [9]]
SAID = [[[7, 8, 0], [7]], [[2, 2], [5, 6, 7, 8, 1, 0]], [[1, 0], [1, 3]]]
RESPONSES = [
    Response(prompt, tokens, [-0.5] * len(tokens), truncated=tokens[-1] != 0)
    for prompt, said in zip(PROMPTS, SAID, strict=True)
    for tokens in said
]
HEARD = {2: frozenset({0}), 3: frozenset({2, 3})}
"""In the third response, and in the fourth."""


@pytest.mark.parametrize("name", MODELS)
def test_the_model_says_the_same_of_every_token(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for shared in (True, False):
        monkeypatch.setattr(rows, "worth_sharing", lambda *_, shared=shared: shared)
        inputs, read = rows.read_rows(RESPONSES, 2, begin=10, end=0, width=16)
        with torch.no_grad():
            logits = model_of(name)(**inputs).logits
        labelled = read != IGNORED
        found.append(torch.log_softmax(logits, 2)[labelled].gather(1, read[labelled][:, None])[:, 0])
        assert read[labelled].tolist() == [token for each in RESPONSES for token in each.tokens]
        assert len(read) == (3 if shared else 6)
    assert found[0].tolist() == pytest.approx(found[1].tolist(), abs=1e-5)


def test_what_is_heard_is_read_and_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    responses = [each._replace(heard=HEARD.get(number, frozenset())) for number, each in enumerate(RESPONSES)]
    for shared in (True, False):
        monkeypatch.setattr(rows, "worth_sharing", lambda *_, shared=shared: shared)
        inputs, read = rows.read_rows(responses, 2, begin=10, end=0, width=16)
        inputs_of_all, read_of_all = rows.read_rows(RESPONSES, 2, begin=10, end=0, width=16)
        assert all(torch.equal(inputs[name], inputs_of_all[name]) for name in inputs_of_all)
        changed = (read != read_of_all).nonzero().tolist()
        assert [read_of_all[row, at].item() for row, at in changed] == [2, 7, 8]
        assert [read[row, at].item() for row, at in changed] == [IGNORED] * 3
    batch = rows.batch_of(responses, torch.zeros(3, 2), begin=10, end=0, width=16)
    assert batch.labels[2].tolist() == [2, *[IGNORED] * 3]
    assert batch.labels[3].tolist() == [5, 6, 1, 0]
    assert batch.rolled_out[3].tolist() == [-0.5] * 4
    assert batch.read[batch.is_read].tolist() == batch.labels[batch.labels != IGNORED].tolist()


def test_long_prompts_are_shared_and_long_responses_to_short_ones_are_not() -> None:
    assert worth_sharing([(500, [100] * 8)], width=512)
    assert not worth_sharing([(10, [4000] * 8)], width=512)
    assert not worth_sharing([(10, [20])], width=512)
