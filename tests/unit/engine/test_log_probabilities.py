"""Log-probabilities without the logits, and what is minimised of them: as worked out from whole logits by autograd."""

import pytest
import torch
from tiny_decoders import MODELS
from torch import Tensor
from trainyard_trainer.data.batch import IGNORED, Batch
from trainyard_trainer.engine import log_probabilities
from trainyard_trainer.engine.log_probabilities import LogProbabilities

TEMPERATURE = 0.7
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
LABELS = torch.tensor([[2, 3, IGNORED, 5, 6], [IGNORED, IGNORED, 9, 10, 0]])
WEIGHTS = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.7, 1.1, -0.2])


def loss(found: Tensor, numbers: Tensor) -> Tensor:
    return WEIGHTS[numbers] * torch.exp(found - found.detach()) + 0.1 * found**2


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_whole_logits(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(log_probabilities.LOGITS_BYTES, "cpu", 4 * 11 * rows)
    batch, labelled = Batch({"input_ids": TOKENS}, LABELS), LABELS != IGNORED
    objectives, gradients, all_found = [], [], []
    for way in ("whole logits", "any weights", "by token"):
        torch.manual_seed(0)
        model = MODELS[name]().eval()
        if way == "whole logits":
            found_BT = torch.log_softmax(model(TOKENS).logits / TEMPERATURE, 2)
            found_BT = found_BT.gather(2, LABELS.clamp(min=0)[..., None])[..., 0] * labelled
            objective = loss(found_BT[labelled], torch.arange(len(WEIGHTS))).sum()
        elif way == "any weights":
            found_BT = LogProbabilities(model, TEMPERATURE)(model, batch)
            objective = loss(found_BT[labelled], torch.arange(len(WEIGHTS))).sum()
        else:
            objective, found_BT = LogProbabilities(model, TEMPERATURE).minimised(model, batch, loss)
            assert not found_BT.requires_grad
        (3 * objective).backward()
        objectives.append(objective.item())
        all_found.append(found_BT.flatten().tolist())
        gradients.append({name: each.grad.flatten().tolist() for name, each in model.named_parameters()})
    for other in (1, 2):
        assert objectives[other] == pytest.approx(objectives[0], rel=1e-5)
        assert all_found[other] == pytest.approx(all_found[0], abs=1e-5)
        for name, each in gradients[0].items():
            assert gradients[other][name] == pytest.approx(each, abs=1e-4), name
