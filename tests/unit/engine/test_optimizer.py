"""Which parameters the optimizer has, in which group."""

from typing import Any

import pytest
from torch import nn
from trainyard_api.optimizer_settings import OptimizerSettings
from trainyard_trainer.engine.optimizer import adamw, set_learning_rate
from trainyard_trainer.errors import PermanentError


def a_model() -> nn.Module:
    return nn.ModuleDict({"embedding": nn.Embedding(5, 3), "linear": nn.Linear(3, 2), "norm": nn.LayerNorm(2)})


def rates_and_decays(model: nn.Module, groups: list[dict[str, Any]], **more: Any) -> dict[str, tuple[float, float]]:
    """Parameter → learning rate and decay at a rate of 0.5."""
    settings = OptimizerSettings.model_validate({"weightDecay": 0.25, "groups": groups, **more})
    optimizer = adamw(model, settings)
    set_learning_rate(optimizer, 0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


PLAIN = {
    "embedding.weight": (0.5, 0.0),
    "linear.weight": (0.5, 0.25),
    "linear.bias": (0.5, 0.0),
    "norm.weight": (0.5, 0.0),
    "norm.bias": (0.5, 0.0),
}
GROUPS: dict[str, tuple[list[dict[str, Any]], dict[str, tuple[float, float]]]] = {
    "without groups, matrices of linear layers alone decay": ([], {}),
    "a rate of its own leaves the decay": (
        [{"parameters": "linear.*", "learningRateScale": 2.0}],
        {"linear.weight": (1.0, 0.25), "linear.bias": (1.0, 0.0)},
    ),
    "a decay of its own holds for all that match": (
        [{"parameters": "*.bias", "weightDecay": 0.125}],
        {"linear.bias": (0.5, 0.125), "norm.bias": (0.5, 0.125)},
    ),
    "the first group that matches counts": (
        [{"parameters": "*.bias", "learningRateScale": 4.0}, {"parameters": "norm*", "learningRateScale": 2.0}],
        {"linear.bias": (2.0, 0.0), "norm.bias": (2.0, 0.0), "norm.weight": (1.0, 0.0)},
    ),
}


@pytest.mark.parametrize(("groups", "otherwise"), GROUPS.values(), ids=GROUPS.keys())
def test_rates_and_decays(groups: list[dict[str, Any]], otherwise: dict[str, tuple[float, float]]) -> None:
    assert rates_and_decays(a_model(), groups) == PLAIN | otherwise


DECAYED: dict[str, list[str]] = {
    "Linear": ["linear.weight"],
    "Matrices": ["embedding.weight", "linear.weight"],
    "All": [*PLAIN],
}


@pytest.mark.parametrize(("decayed", "names"), DECAYED.items(), ids=DECAYED.keys())
def test_what_decays_is_a_choice(decayed: str, names: list[str]) -> None:
    found = rates_and_decays(a_model(), [], decayed=decayed)
    assert {name for name, (_, decay) in found.items() if decay} == set(names)


def test_frozen_parameters_have_no_part_in_it() -> None:
    model = a_model()
    model["linear"].requires_grad_(False)
    assert rates_and_decays(model, []).keys() == {"embedding.weight", "norm.weight", "norm.bias"}


def test_a_group_of_nothing_is_refused_with_names_that_exist() -> None:
    with pytest.raises(
        PermanentError, match=r"pretrain\.optimizer\.groups\[0\]\.parameters: liner\.\* .*linear\.weight"
    ):
        rates_and_decays(a_model(), [{"parameters": "liner.*"}])
