"""The loss in chunks is the loss: values and gradients are those that torch's own cross-entropy gives over whole logits."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from training import TINY_GPT2_WITH_DROPOUT, TINY_LLAMA
from trainyard_api.optimizer_settings import LossSettings
from trainyard_api.training_stages import ModelSettings
from trainyard_trainer.data.batch import IGNORED, Batch
from trainyard_trainer.engine import loss as loss_module
from trainyard_trainer.engine.loss import Loss
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.models.build import build_model, model_config
from transformers.modeling_outputs import CausalLMOutput

VOCABULARY, ROWS_A_CHUNK = 300, 5


class WithBias(nn.Module):
    """As masked encoders have their head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.head = nn.Linear(8, VOCABULARY)
        self.head.bias.data.normal_()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, use_cache: bool) -> CausalLMOutput:
        return CausalLMOutput(logits=self.head(torch.tanh(self.embedding(input_ids))))


@dataclass(frozen=True)
class Case:
    model: Any = field(default_factory=lambda: TINY_LLAMA)
    settings: dict[str, float] = field(default_factory=dict)
    ignored: float = 0.0
    frozen_head: bool = False
    bf16: bool = False


CASES = {
    "plain": Case(),
    "some positions without a label": Case(ignored=0.4),
    "no label at all": Case(ignored=1.0),
    "z-loss": Case(settings={"zLoss": 0.01}, ignored=0.2),
    "label smoothing": Case(settings={"labelSmoothing": 0.1}, ignored=0.2),
    "both": Case(settings={"labelSmoothing": 0.1, "zLoss": 0.01}),
    "a head that is the embedding too": Case(
        model=TINY_LLAMA | {"config": TINY_LLAMA["config"] | {"tie_word_embeddings": True}}
    ),
    "a head that is frozen": Case(frozen_head=True),
    "a head with a bias": Case(model=None, settings={"labelSmoothing": 0.1, "zLoss": 0.01}, ignored=0.2),
    "bf16": Case(bf16=True),
}


def a_model(case: Case) -> Any:
    torch.manual_seed(3)
    if case.model is None:
        return WithBias()
    settings = ModelSettings.model_validate(case.model)
    model = build_model(model_config(settings, vocab_size=VOCABULARY, end_of_text=0, sequence_length=16), seed=3)
    model.get_output_embeddings().weight.data *= 20  # so that no softmax is flat
    model.get_output_embeddings().weight.requires_grad_(not case.frozen_head)
    return model.bfloat16() if case.bf16 else model


def expected(model: Any, case: Case, batch: Batch) -> tuple[Tensor, Tensor]:
    logits_NV = model(**batch.inputs, use_cache=False).logits.float().flatten(0, 1)
    labels_N = batch.labels.flatten()
    losses_N = cross_entropy(logits_NV, labels_N, reduction="none", ignore_index=IGNORED)
    smoothing = case.settings.get("labelSmoothing", 0.0)
    objective = cross_entropy(logits_NV, labels_N, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing)
    normalisers = torch.logsumexp(logits_NV, 1)[labels_N != IGNORED]
    objective = objective + case.settings.get("zLoss", 0.0) * (normalisers**2).sum()
    return objective, losses_N.view_as(batch.labels)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_chunks_give_what_whole_logits_give(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss_module.CHUNK_BYTES, "cpu", 4 * VOCABULARY * ROWS_A_CHUNK)
    tokens_BT = torch.randint(VOCABULARY, (3, 17))
    labels_BT = tokens_BT[:, 1:].masked_fill(torch.rand(3, 16) < case.ignored, IGNORED)
    batch = Batch({"input_ids": tokens_BT[:, :-1]}, labels_BT)
    whole, chunked = a_model(case), a_model(case)
    objective, losses_BT = expected(whole, case, batch)
    objective.backward()
    got, got_losses_BT, _ = Loss(chunked, LossSettings.model_validate(case.settings))(chunked, batch)
    (got * 0.5).backward()
    near = 0.02 if case.bf16 else 1e-5
    torch.testing.assert_close(got, objective, rtol=near, atol=near)
    torch.testing.assert_close(got_losses_BT, losses_BT, rtol=near, atol=near)
    for (name, one), other in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        if one.grad is None:
            assert other.grad is None or not other.grad.any(), name
        else:
            sums = near * max(1.0, float(one.grad.abs().max()))  # of large terms that cancel, rounded in another order
            torch.testing.assert_close(2 * other.grad, one.grad, rtol=near, atol=sums)


def test_it_repeats_to_the_bit_and_draws_no_number() -> None:
    model = a_model(Case(model=TINY_GPT2_WITH_DROPOUT)).eval()
    loss = Loss(model, LossSettings())
    tokens_BT = torch.randint(VOCABULARY, (3, 17))
    before = torch.get_rng_state()
    with torch.no_grad():
        first, again = (loss(model, Batch({"input_ids": tokens_BT[:, :-1]}, tokens_BT[:, 1:]))[1] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())


def test_logits_never_exist_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """In forward and backward no tensor is made with as many elements as logits would have."""
    monkeypatch.setitem(loss_module.CHUNK_BYTES, "cpu", 4 * VOCABULARY * ROWS_A_CHUNK)
    model = a_model(Case(ignored=0.0))
    loss = Loss(model, LossSettings())
    tokens_BT = torch.randint(VOCABULARY, (8, 17))
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            made = function(*given, **(named or {}))
            sizes.extend(
                each.numel() for each in (made if isinstance(made, tuple) else [made]) if isinstance(each, Tensor)
            )
            return made

    with Watch():
        objective, *_ = loss(model, Batch({"input_ids": tokens_BT[:, :-1]}, tokens_BT[:, 1:]))
        objective.backward()
    assert max(sizes) < 8 * 16 * VOCABULARY


def test_a_head_that_is_more_than_a_matrix_is_refused() -> None:
    model = WithBias()
    model.head = nn.Sequential(nn.Linear(8, VOCABULARY))
    with pytest.raises(PermanentError, match=r"pretrain\.model: its output head is Sequential"):
        Loss(model, LossSettings())
