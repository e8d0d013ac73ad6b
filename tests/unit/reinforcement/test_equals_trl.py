"""Losses and gradients of grpo are those of TRL's trainer, on the same weights and responses (`pip install trl`)."""

from collections import defaultdict
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_decoders import model_of
from trainyard_api.rollout_stages import GrpoStage
from trainyard_trainer.data.batch import IGNORED
from trainyard_trainer.reinforcement.objective import PolicyLoss
from trainyard_trainer.reinforcement.rows import Response, RolloutBatch, batch_of

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")

RESPONSES = [
    Response(prompt, tokens, [-1.0] * len(tokens), truncated=False)
    for prompt, tokens in (([3, 4], [7, 8, 0]), ([3, 4], [7, 0]), ([9], [5, 6, 7, 8, 1, 0]), ([9], [1, 0]))
]
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GRPO": ({"average": "Response"}, {"loss_type": "grpo"}),
    "Dr. GRPO": ({"average": "Longest"}, {"loss_type": "dr_grpo"}),
    "DAPO": ({"average": "Token", "clipHigh": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "GSPO": (
        {"average": "Response", "ratio": "Response"},
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    ),
    "GRPO, held near the reference": ({"average": "Response", "kl": 0.04}, {"loss_type": "grpo", "beta": 0.04}),
}


def a_batch(stage: GrpoStage) -> RolloutBatch:
    """With old log-probabilities from which the policy has moved, so that some ratios are clipped."""
    made = batch_of(RESPONSES, torch.tensor([[1.0, 0.0], [0.0, 2.0]]), begin=10, end=0, width=16)
    draw = torch.Generator().manual_seed(3)
    old = torch.log_softmax(torch.randn(*made.labels.shape, 11, generator=draw), 2)[..., 0] * made.counted
    return replace(
        made,
        old=old,
        reference=old - 0.3 * torch.rand(old.shape, generator=draw) * made.counted,
        advantages=torch.tensor([0.7, -0.7, -1.2, 1.2])[:, None] * made.counted,
    )


def theirs(model: Any, batch: RolloutBatch, changed: dict[str, Any], longest: int) -> torch.Tensor:
    """TRL's loss, of log-probabilities that are worked out response by response."""
    rows = []
    for each in RESPONSES:
        read = torch.tensor([[10, *each.prompt, *each.tokens]])
        logits = model(read).logits[0, len(each.prompt) : -1]
        found = torch.log_softmax(logits, 1).gather(1, torch.tensor(each.tokens)[:, None])[:, 0]
        rows.append(torch.nn.functional.pad(found, (0, batch.labels.shape[1] - len(found))))
    told = {"loss_type": "grpo", "beta": 0.0, "epsilon_high": 0.2, "importance_sampling_level": "token"} | changed
    trainer = SimpleNamespace(
        **told,
        _get_per_token_logps_and_entropies=lambda *_, **__: (torch.stack(rows), torch.zeros_like(batch.old), None),
        epsilon_low=0.2,
        top_entropy_quantile=1.0,
        aux_loss_enabled=False,
        off_policy_mask_threshold=None,
        use_vllm=False,
        max_completion_length=longest,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        model=model,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda it: it, gather_for_metrics=lambda it: it, reduce=lambda it, **_: it
        ),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
    )
    tokens = batch.labels.clamp(min=0)
    inputs = {
        "prompt_ids": tokens[:, :0],
        "prompt_mask": tokens[:, :0],
        "completion_ids": tokens,
        "completion_mask": (batch.labels != IGNORED).int(),
        "advantages": batch.advantages[:, 0],
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.reference,
        "num_items_in_batch": batch.counted.sum(),
    }
    found: torch.Tensor = trl.GRPOTrainer._compute_loss(trainer, model, inputs)
    return found


@pytest.mark.parametrize(("ours", "changed"), VARIANTS.values(), ids=VARIANTS.keys())
def test_loss_and_gradients(ours: dict[str, Any], changed: dict[str, Any]) -> None:
    stage = GrpoStage.model_validate(
        {
            "data": "prompts",
            "model": {"stage": "tuned"},
            "steps": 1,
            "rollout": {"responses": 2, "maxNewTokens": 9},
            "rewards": [{"function": "rewards.py:right"}],
            "policy": {"epochs": 2, **ours},
        }
    )
    batch, model = a_batch(stage), deepcopy(model_of("llama")).train()
    their_model = deepcopy(model)
    criterion = PolicyLoss(model, stage)
    criterion._tokens_of_a_response = float(batch.counted.sum()) / len(RESPONSES)
    loss = criterion(model, batch).objective / len(RESPONSES)
    loss.backward()
    other = theirs(their_model, batch, changed, longest=9)
    other.backward()
    assert float(loss) == pytest.approx(float(other), rel=1e-5)
    for (name, mine), their in zip(model.named_parameters(), their_model.parameters(), strict=True):
        assert mine.grad is not None
        assert their.grad is not None
        assert (mine.grad - their.grad).abs().max() <= 1e-5 * their.grad.abs().max() + 1e-7, name
