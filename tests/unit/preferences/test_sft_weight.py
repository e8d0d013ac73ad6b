"""With `sftWeight`, what a pair costs is more by the chosen response's own loss, of a token in the mean."""

from pathlib import Path

import pytest
import torch
from families import FAMILIES
from torch.nn.functional import cross_entropy
from trainyard_api.preference_settings import PreferenceSettings
from trainyard_api.training_stages import ModelSettings
from trainyard_trainer.data.objectives.objective import Sample
from trainyard_trainer.data.objectives.preferences import PairRows, Preferences
from trainyard_trainer.models.build import build_model, model_config
from trainyard_trainer.preferences.objective import PreferenceLoss
from transformers import PreTrainedModel

LENGTH = 144


def a_model() -> PreTrainedModel:
    settings = ModelSettings.model_validate(FAMILIES["llama"])
    return build_model(model_config(settings, vocab_size=280, end_of_text=0, sequence_length=LENGTH), seed=1).eval()


def cost(rows: PairRows, weight: float) -> float:
    """Of all pairs together."""
    model = a_model()
    criterion = PreferenceLoss(model, PreferenceSettings.model_validate({"sftWeight": weight}))
    batch = Preferences(LENGTH, begin=0).batch([Sample(rows, number, number) for number in range(len(rows))])
    with torch.no_grad():
        return float(criterion(model, batch).objective)


def loss_of_chosen(rows: PairRows, pair: int) -> float:
    """As transformers' own model has it, of the response alone with its prompt."""
    tokens, learned = torch.tensor([0, *rows.sides[0].document(pair).tolist()]), rows.learned(pair)[0]
    with torch.no_grad():
        logits_TV = a_model()(tokens[None]).logits[0, :-1]
    said = torch.tensor(learned, dtype=torch.bool)
    return float(cross_entropy(logits_TV[said], tokens[1:][said]))


def test_the_chosen_responses_own_loss_is_added(split: Path) -> None:
    rows = Preferences(LENGTH, begin=0).open(split)
    rows.reference[:] = -30
    wanted = sum(loss_of_chosen(rows, pair) for pair in range(rows.sides[0].num_documents))
    assert cost(rows, 0.5) - cost(rows, 0) == pytest.approx(0.5 * wanted, rel=1e-5)
