"""AdamW over a model's trainable parameters, in groups of equal learning rate and decay.

`optimizer.decayed` says which parameters decay, matrices of linear layers alone unless told otherwise; `optimizer.groups` says
otherwise for parameters by name. The optimizer's own groups follow from that, whatever their number: state is saved by
parameter name.

It is torch's fused one, on CPU as on GPU: one pass over weights, gradients and moments where the plain one makes ten.
"""

import difflib
from fnmatch import fnmatchcase

from torch import nn
from torch.optim import AdamW
from trainyard_api.optimizer_settings import OptimizerSettings, ParameterGroup

from ..errors import PermanentError, setting


def adamw(model: nn.Module, settings: OptimizerSettings) -> AdamW:
    """The optimizer; its rates are set before each step, by `set_learning_rate`."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    _refuse_groups_of_nothing(settings.groups, list(trained))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        own = next((each for each in settings.groups if fnmatchcase(name, each.parameters)), None)
        linear = parameter.ndim > 1 and id(parameter) not in embeddings
        decays = {"Linear": linear, "Matrices": parameter.ndim > 1, "All": True}[settings.decayed]
        decay = settings.weight_decay if decays else 0.0
        if own and own.weight_decay is not None:
            decay = own.weight_decay
        groups.setdefault((own.learning_rate_scale if own else 1.0, decay), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "weight_decay": decay, "learning_rate_scale": scale}
            for (scale, decay), parameters in groups.items()
        ],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: AdamW, rate: float) -> None:
    """The rate of the next step, times each group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["learning_rate_scale"]


def _refuse_groups_of_nothing(groups: list[ParameterGroup], names: list[str]) -> None:
    for number, group in enumerate(groups):
        if not any(fnmatchcase(name, group.parameters) for name in names):
            near = difflib.get_close_matches(group.parameters, names, n=3, cutoff=0)
            raise PermanentError(
                f"{setting(f'optimizer.groups[{number}].parameters')}: {group.parameters} matches no parameter that is "
                f"trained; names are such as {', '.join(near)}"
            )
