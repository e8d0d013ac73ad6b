"""Losses and gradients of sft, reward and dpo are those of TRL's trainers, on the same weights and rows (`pip install trl`)."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from preparing import put, run_prepare
from torch import nn
from trainyard_api.optimizer_settings import LossSettings
from trainyard_api.preference_settings import PreferenceSettings
from trainyard_api.training_stages import ModelSettings
from trainyard_trainer.data.objectives.objective import Objective, Sample
from trainyard_trainer.data.objectives.preferences import Preferences
from trainyard_trainer.data.objectives.responses import Responses
from trainyard_trainer.data.objectives.rewards import Rewards
from trainyard_trainer.engine.criterion import Criterion
from trainyard_trainer.engine.loss import Loss
from trainyard_trainer.models.build import build_model, model_config
from trainyard_trainer.models.scoring import with_scores
from trainyard_trainer.preferences.objective import PreferenceLoss
from trainyard_trainer.preferences.reward import RewardLoss
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")

LENGTH = 160


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    put(folder / "texts", {f"{n}.txt": "yes no is it so, it is? " * (5 + n) for n in range(8)})
    run_prepare(folder, {"path": "texts"}, out="corpus", tokenizer={"vocabSize": 280})
    rows = [{"prompt": f"{n}?", "chosen": "yes " * (n % 4 + 1), "rejected": "no", "margin": n % 3} for n in range(24)]
    put(folder, {"votes.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    said = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    put(folder, {"chat.jsonl": "".join(json.dumps(row) + "\n" for row in said)})
    for name, form in (("votes", "preferences"), ("chat", "conversations")):
        run_prepare(folder, {"path": f"{name}.jsonl", "format": form}, out=name, tokenizer={"stage": "corpus"})
    return folder


def a_model(seed: int = 1) -> PreTrainedModel:
    settings = ModelSettings.model_validate(FAMILIES["llama"])
    model = build_model(model_config(settings, vocab_size=280, end_of_text=0, sequence_length=LENGTH), seed)
    with torch.no_grad():  # first weights hardly tell tokens apart
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model.eval()


def measured(model: nn.Module, loss: Callable[[], torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, and its gradients by parameter."""
    model.zero_grad()
    value = loss()
    value.backward()
    return float(value), {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def ours(model: nn.Module, criterion: Criterion, objective: Objective, split: Path, reference: bool = False) -> Any:
    rows: Any = objective.open(split)
    if reference:
        rows.reference[:] = REFERENCE[: rows.reference.size].reshape(rows.reference.shape)
    batch = objective.batch([Sample(rows, number, number) for number in range(len(rows))])
    return measured(model, lambda: criterion(model, batch).objective / batch.num_labels)


UNUSED = "~"
"""A token that no row has: transformers takes what a row ends with for padding, so that must be nothing else."""
REFERENCE = torch.linspace(-40, -20, 100).numpy()


def theirs(
    trainer: str,
    model: nn.Module,
    storage: Path,
    row: dict[str, Any],
    examples: list[dict[str, Any]],
    **settings: Any,
) -> Any:
    """Of examples that are tokens already; the trainer's own data is one row, to make it with."""
    from datasets import Dataset

    given = {"output_dir": str(storage / "trl"), "use_cpu": True, "report_to": [], "bf16": False}
    config = getattr(trl, f"{trainer}Config")(**given, **settings)
    tokenizer = AutoTokenizer.from_pretrained(storage / "chat/tokenizer", pad_token=UNUSED)
    rows = Dataset.from_list([row] * 2)
    made = getattr(trl, f"{trainer}Trainer")(model=model, args=config, processing_class=tokenizer, train_dataset=rows)
    batch = made.data_collator(examples)
    made.model.eval()
    return measured(made.model, lambda: made.compute_loss(made.model, batch))


def agree(one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5, abs=1e-5)
    assert set(other[1]) <= set(one[1])
    for name, gradient in other[1].items():
        torch.testing.assert_close(one[1][name], gradient, atol=1e-5, rtol=1e-5)


def test_sft(storage: Path) -> None:
    model, objective = a_model(), Responses(LENGTH, begin=0)
    rows = objective.open(storage / "chat/train")
    examples = []
    for document in range(rows.tokens.num_documents):
        tokens, said = rows.tokens.document(document), rows.responses.document(document)
        labels = [-100, *np.where(said, tokens, -100).tolist()]
        examples.append({"input_ids": [0, *tokens.tolist()], "labels": labels})
    wanted = theirs("SFT", deepcopy(model), storage, {"prompt": "a", "completion": "b"}, examples)
    agree(ours(model, Loss(model, LossSettings()), objective, storage / "chat/train"), wanted)


def sides(rows: Any, pair: int) -> list[list[int]]:
    return [[0, *side.document(pair).tolist()] for side in rows.sides]


PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    ("named", "settings"),
    [
        ("sigmoid", {}),
        ("robust", {"loss": "Robust", "labelSmoothing": 0.2}),
        ("hinge", {"loss": "Hinge"}),
        ("ipo", {"loss": "IPO"}),
    ],
)
def test_dpo(storage: Path, named: str, settings: dict[str, Any]) -> None:
    model, objective = a_model(), Preferences(LENGTH, begin=0)
    rows = objective.open(storage / "votes/train")
    examples = []
    for pair in range(rows.sides[0].num_documents):
        chosen, rejected = sides(rows, pair)
        prompt = len(chosen) - int(rows.learned(pair)[0].sum())
        ids = {"prompt_ids": chosen[:prompt], "chosen_ids": chosen[prompt:], "rejected_ids": rejected[prompt:]}
        known = REFERENCE[2 * pair : 2 * pair + 2].tolist()
        examples.append({**ids, "ref_chosen_logps": known[0], "ref_rejected_logps": known[1]})
    wanted = theirs(
        "DPO",
        deepcopy(model),
        storage,
        PAIR,
        examples,
        beta=0.1,
        loss_type=[named],
        label_smoothing=settings.get("labelSmoothing", 0.0),
        precompute_ref_log_probs=True,
    )
    criterion = PreferenceLoss(model, PreferenceSettings.model_validate({"beta": 0.1, **settings}))
    agree(ours(model, criterion, objective, storage / "votes/train", reference=True), wanted)


@pytest.mark.parametrize("centring", [0.0, 0.05])
def test_reward(storage: Path, centring: float, tmp_path: Path) -> None:
    model, objective = with_scores(a_model(), heads=1, seed=1).eval(), Rewards(LENGTH, begin=0)
    model.save_pretrained(tmp_path)
    same = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    rows = objective.open(storage / "votes/train")
    examples = []
    for pair in range(rows.sides[0].num_documents):
        chosen, rejected = sides(rows, pair)
        examples.append({"chosen_ids": chosen, "rejected_ids": rejected, "margin": float(rows.margins[pair])})
    settings = {"center_rewards_coefficient": centring} if centring else {}
    wanted = theirs("Reward", same, storage, PAIR, examples, **settings)
    agree(ours(model, RewardLoss(centring), objective, storage / "votes/train"), wanted)
