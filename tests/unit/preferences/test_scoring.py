"""A model that scores: a response in a row with others has the score that transformers' own model gives it alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from trainyard_api.training_stages import LoraSettings, ModelSettings
from trainyard_trainer.data.objectives.objective import Sample
from trainyard_trainer.data.objectives.rewards import Rewards
from trainyard_trainer.models.build import build_model, model_config
from trainyard_trainer.models.lora import merged, with_adapters
from trainyard_trainer.models.scoring import centre, with_scores
from trainyard_trainer.preferences.reward import RewardLoss, scores
from transformers import AutoModelForSequenceClassification, PreTrainedModel

LENGTH = 144
DECODERS = ("llama", "qwen3", "gpt2")


def a_scorer(family: str, heads: int = 2) -> PreTrainedModel:
    settings = ModelSettings.model_validate(FAMILIES[family])
    model = build_model(model_config(settings, vocab_size=280, end_of_text=0, sequence_length=LENGTH), seed=1)
    with torch.no_grad():  # first weights hardly tell positions apart
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return with_scores(model, heads, seed=1).eval()


@pytest.mark.parametrize("family", DECODERS)
def test_a_packed_response_has_the_score_that_it_has_alone_in_transformers(
    split: Path, family: str, tmp_path: Path
) -> None:
    model = a_scorer(family)
    model.save_pretrained(tmp_path)
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(theirs).__module__.startswith("transformers.")
    rows = Rewards(LENGTH, begin=0).open(split)
    batch = Rewards(LENGTH, begin=0).batch([Sample(rows, number, number) for number in range(len(rows))])
    with torch.no_grad():
        got = scores(model, batch)
        alone = [
            theirs(torch.tensor([[0, *side.document(pair).tolist()]])).logits[0]
            for number in range(len(rows))
            for pair in rows.row(number)
            for side in rows.sides
        ]
    assert len(rows) < batch.num_labels, "pairs share rows"
    assert got.std() > 0.1
    torch.testing.assert_close(got.flatten(0, 1), torch.stack(alone), atol=1e-5, rtol=1e-5)


def test_heads_begin_as_huang_et_al_have_them_and_are_centred() -> None:
    model: Any = a_scorer("llama", heads=16)
    width = model.config.hidden_size
    assert model.score.weight.std().item() == pytest.approx((width + 1) ** -0.5, rel=0.1)
    assert not model.score.bias.any()
    centre(model, [float(head) for head in range(16)])
    assert model.score.bias.tolist() == [-head for head in range(16)]


def test_margins_of_rows_ask_for_more(split: Path) -> None:
    rows = Rewards(LENGTH, begin=0).open(split)
    batch = Rewards(LENGTH, begin=0).batch([Sample(rows, number, number) for number in range(len(rows))])
    assert sorted(set(batch.margins.tolist())) == [0, 1, 2]
    model = a_scorer("llama", heads=1)
    with torch.no_grad():
        lost = RewardLoss(centring=0.1)(model, batch)
        chosen, rejected = scores(model, batch).squeeze(2).unbind(1)
    wanted = -torch.nn.functional.logsigmoid(chosen - rejected - batch.margins) + 0.1 * (chosen + rejected) ** 2
    torch.testing.assert_close(lost.objective, wanted.sum())
    assert lost.losses.sum().item() == pytest.approx(wanted.sum().item(), rel=1e-6)


def test_adapters_leave_the_body_as_it_is_and_train_the_head_whole(split: Path) -> None:
    model = with_adapters(a_scorer("llama"), LoraSettings(rank=2), seed=0)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {"lora" in name or ".score." in name for name in trained} == {True}
    assert any(".score." in name for name in trained)
    rows = Rewards(LENGTH, begin=0).open(split)
    batch = Rewards(LENGTH, begin=0).batch([Sample(rows, 0, 0)])
    before = scores(model, batch)
    torch.testing.assert_close(scores(merged(model), batch), before)
