"""A language model that gives scores in the place of words: its body, and a linear layer on what it knows after a text's last
token. Several heads score each by itself, an ensemble that costs one body (Zhang et al. 2024, arXiv 2401.16635, section 3.1).

Classes go by transformers' names for sequence classification, for these are written into config.json: what is saved opens as
any other, but for the heads' biases, which transformers does not have; they move all scores alike.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .families import family_of


class _Scoring:
    """What is our own of a model that scores."""

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, ends: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """The scores (N, H) at these positions, (N,) in 0 … B × T − 1, of rows (B, T)."""
        it: Any = self
        hidden_BTC = it.base_model(
            input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        scores_NH: Tensor = it.score(hidden_BTC.flatten(0, 1)[ends])
        return scores_NH


def with_scores(model: PreTrainedModel, heads: int, seed: int) -> PreTrainedModel:
    """The model's body, under new heads.

    As Huang et al. 2024 (arXiv 2403.17031, section 4.2) have them: weights from N(0, 1 / (width + 1)), biases 0.
    """
    config: Any = deepcopy(model.config)
    config.num_labels = heads
    scores = family_of(config).scores()
    scoring: Any = type(scores.__name__, (_Scoring, scores), {})
    with torch.device("meta"):
        scored: Any = scoring._from_config(config, attn_implementation="sdpa")
    setattr(scored, scored.base_model_prefix, model.base_model)
    width = config.hidden_size
    scored.score = nn.Linear(width, heads)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        scored.score.weight.normal_(0, (width + 1) ** -0.5, generator=generator)
        scored.score.bias.zero_()
    return scored  # type: ignore[no-any-return]


@torch.no_grad()
def centre(model: Any, means_H: list[float]) -> None:
    """Take each head's mean score from its scores."""
    model.score.bias -= torch.tensor(means_H)
