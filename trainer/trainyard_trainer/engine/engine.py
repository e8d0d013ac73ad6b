"""A model under DeepSpeed: one optimizer step on a global batch, held-out loss, and state by name.

The loss of every micro-batch is its mean over tokens; all micro-batches hold equally many, so DeepSpeed's mean over
accumulation and ranks is the mean over the tokens of the global batch, however that is cut.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from trainyard_api.stages import PretrainStage

from ..errors import PermanentError
from .configuration import deepspeed_configuration
from .optimizer import adamw, set_learning_rate
from .own_time import OwnTime
from .state import Fragment, fragments, set_steps


class Engine:
    """The model of one rank, with its optimizer."""

    def __init__(self, model: nn.Module, stage: PretrainStage, accumulation: int, device: torch.device) -> None:
        """Hand the model to DeepSpeed. A collective: every rank must come here, with the same weights."""
        configuration = deepspeed_configuration(stage, accumulation)
        self.device = device
        self.accumulation = accumulation
        self.own_time = OwnTime(device)
        """Of the last step."""
        self._clip_norm = stage.optimizer.clip_norm
        self.parameter_shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        self._adamw = adamw(model.to(device), stage.optimizer)
        self._deepspeed = _initialize(model, self._adamw, configuration)
        self.zero_stage: int = self._deepspeed.zero_optimization_stage()

    def train_step(
        self, micro_batches: Iterable[Tensor], learning_rate: float, before_update: Callable[[], None]
    ) -> tuple[float, float]:
        """One optimizer step on this rank's share of the global batch. Until `before_update` has returned, only gradients
        change.

        Returns the summed loss of its micro-batches, in nats per token each, and the global gradient norm before clipping.
        """
        self._deepspeed.train()
        set_learning_rate(self._adamw, learning_rate)
        losses = torch.zeros((), dtype=torch.float64)
        norm = math.nan
        self.own_time.begin()
        own = iter(micro_batches)
        for number in range(1, self.accumulation + 1):
            with self.own_time.counted():
                loss = self._loss(next(own), "mean")
            self._deepspeed.backward(loss)
            if not self.zero_stage and number == self.accumulation:
                norm = float(nn.utils.clip_grad_norm_(self._deepspeed.module.parameters(), self._clip_norm or math.inf))
            if number == self.accumulation:
                before_update()
            self._deepspeed.step()
            losses += loss.detach().cpu()
        if self.zero_stage:
            norm = float(self._deepspeed.get_global_grad_norm())
        return losses.item(), norm

    @torch.no_grad()
    def sequence_losses(self, tokens_BT: Tensor) -> Tensor:
        """The summed loss over each sequence's tokens, in nats, fp64 (B,); no dropout, and no random number is drawn.

        With ZeRO 3 a collective, for weights are gathered on the way.
        """
        self._deepspeed.eval()
        return self._loss(tokens_BT, "none").view(len(tokens_BT), -1).double().sum(1).cpu()

    def fragments(self) -> Iterator[Fragment]:
        """Weights and optimizer state that this rank holds, as views."""
        return fragments(self._deepspeed.module, self._deepspeed.optimizer, self._adamw)

    @property
    def replicated(self) -> bool:
        """Whether every rank holds the same fragments."""
        return not self.zero_stage

    def set_steps(self, steps: int) -> None:
        """Count on from `steps` steps; the fragments are filled already."""
        set_steps(self._adamw, steps)

    def _loss(self, tokens_BT: Tensor, reduction: str) -> Tensor:
        tokens_BT = tokens_BT.to(self.device)
        logits_BTV = self._deepspeed(input_ids=tokens_BT[:, :-1], use_cache=False).logits
        return cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction=reduction)


def _initialize(model: nn.Module, optimizer: AdamW, configuration: dict[str, Any]) -> Any:
    """DeepSpeed's engine, without its start-up prints and without the compiler that its start-up would call."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's calls
    # An all-reduce through shared memory that DeepSpeed compiles when its backend starts, on CPU. Gloo does it as well,
    # and no C++ compiler belongs into an image. This table is where it asks whether it may.
    deepspeed.ops.__compatible_ops__ = {}
    try:
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=configuration, dist_init_required=False
        )
    except (RuntimeError, OSError):
        raise
    except Exception as error:
        what = " ".join(str(error).split())
        raise PermanentError(f"pretrain.deepspeed: DeepSpeed refuses it: {what}") from error
    return engine
