"""Without dropout: what is compared with a reference must not differ from it by chance."""

from torch import nn


def leave_out_dropout(model: nn.Module) -> None:
    """Set all dropout of a model to 0."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
