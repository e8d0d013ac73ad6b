"""Cross-entropy without the logits: the model's output head gives losses in place of them, a chunk of rows after another.

Logits of a micro-batch, with what softmax and its gradient need, are often more memory than all activations: 4 bytes × rows ×
vocabulary, three times over. Here the head's own forward is replaced. It multiplies a chunk of rows by the head's weight, takes
the loss, and at once what the loss's gradient is to these rows and to the weight, so backward has only to scale both and no
logits are made twice (Hsu et al. 2024, Liger Kernel, arXiv 2410.10989, section 3.2; recomputing them instead, as in Wijmans et
al. 2024, arXiv 2411.09009, costs a third more of the head's products: 14 % of all products of the model that
`benchmarks.throughput` trains). Rows without a label are passed over: of masked language modelling's, that is 85 %.

It happens inside the head's forward since that is where ZeRO 3 has its weight whole, in backward as well; autograd adds up what
tied weights get from here and from the embedding. All is added up in fp32 and in a fixed order, so it repeats to the bit.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from trainyard_api.memory import LOGITS_BYTES
from trainyard_api.optimizer_settings import LossSettings

from ..data.batch import IGNORED, Batch
from ..errors import PermanentError, setting
from .criterion import Lost

CHUNK_BYTES = LOGITS_BYTES
"""Of a chunk's logits: the smaller, the more often the gradient of the weight is read and written. On one core, with 1,024 rows
of 384 and a vocabulary of 32,000, forward and backward take 1.27 s with 4 MB, 0.76 with 16 and 0.71 with 24, and 0.95 over
whole logits; what is above 32 MB, malloc would get from the kernel page by page each time.
"""


def linear_head(model: Any) -> nn.Module:
    """The model's output head, whose forward can be replaced. PermanentError if it is more than a linear layer."""
    head: nn.Module = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise PermanentError(f"{setting('model')}: its output head is {type(head).__name__}, not a linear layer")
    return head


class Loss:
    """The losses of a model's tokens, whose forward gives no logits from now on."""

    FIGURES: ClassVar[tuple[str, ...]] = ()
    HELD_OUT_FIGURES: ClassVar[tuple[str, ...]] = FIGURES

    def __init__(self, model: Any, settings: LossSettings) -> None:
        self._head = linear_head(model)
        self._settings = settings
        self._labels_N: Tensor
        self._losses_N: Tensor
        self._head.forward = self._of_hidden  # type: ignore[method-assign]

    def look_ahead(self, module: nn.Module, batches: Iterable[tuple[Batch, bool]]) -> None:
        """Nothing has to be known."""

    def leave_out_of_compiling(self) -> None:
        """Chunks are of many lengths, and their products are kernels already. (This imports torch's compiler.)"""
        self._head.forward = torch.compiler.disable(self._of_hidden)  # type: ignore[method-assign]

    def __call__(self, module: nn.Module, batch: Batch) -> Lost:
        """Losses are each position's cross-entropy in nats, (B, T), 0 where there is no label."""
        self._labels_N = batch.labels.flatten()
        objective = module(**batch.inputs, use_cache=False).logits
        losses_BT = self._losses_N.view_as(batch.labels)
        del self._labels_N, self._losses_N
        return Lost(objective, losses_BT, losses_BT.new_zeros(0))

    def _of_hidden(self, hidden_BTC: Tensor) -> Tensor:
        """Instead of the head's forward."""
        hidden_NC = hidden_BTC.flatten(0, -2)
        objective, self._losses_N = _HeadLoss.apply(
            hidden_NC,
            self._head.weight,
            self._head.bias,
            self._labels_N,
            self._settings.z_loss,
            self._settings.label_smoothing,
        )
        return objective


class _HeadLoss(torch.autograd.Function):
    """(rows, weight, bias, labels, …) → what to minimise, the cross-entropy of each row."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        weight_VC: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        z_loss: float,
        smoothing: float,
    ) -> tuple[Tensor, Tensor]:
        to_hidden, to_weight, to_bias, *_ = ctx.needs_input_grad
        rows_N = (labels_N != IGNORED).nonzero().flatten()
        vocabulary = len(weight_VC)
        losses_N = torch.zeros(len(labels_N), dtype=torch.float32, device=hidden_NC.device)
        objective = torch.zeros((), dtype=torch.float32, device=hidden_NC.device)
        grad_NC = torch.zeros_like(hidden_NC) if to_hidden else None
        grad_VC = torch.zeros_like(weight_VC, dtype=torch.float32) if to_weight else None
        grad_V = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and to_bias else None
        for rows in rows_N.split(max(1, CHUNK_BYTES[hidden_NC.device.type] // (4 * vocabulary))):
            chunk_NC = hidden_NC[rows]
            labels = labels_N[rows, None]
            logits = chunk_NC @ weight_VC.T
            if bias_V is not None:
                logits += bias_V
            logits = logits.float()
            normaliser = torch.logsumexp(logits, 1, keepdim=True) if z_loss else None
            logits = torch.log_softmax(logits, 1, out=logits)
            losses = -logits.gather(1, labels).squeeze(1)
            losses_N[rows] = losses
            minimised = losses
            if smoothing:
                minimised = (1 - smoothing) * losses - smoothing * logits.mean(1)
            if normaliser is not None:
                minimised = minimised + z_loss * normaliser.squeeze(1) ** 2
            objective += minimised.sum()
            if not (to_hidden or to_weight or to_bias):
                continue
            # The gradient to the logits: softmax, less what is wanted of it.
            logits.exp_()
            if normaliser is not None:
                logits *= 1 + 2 * z_loss * normaliser
            if smoothing:
                logits -= smoothing / vocabulary
            logits.scatter_add_(1, labels, torch.full_like(labels, smoothing - 1, dtype=logits.dtype))
            grads = logits.to(weight_VC.dtype)
            if grad_NC is not None:
                grad_NC[rows] = grads @ weight_VC
            if grad_VC is not None:
                if grads.dtype == torch.float32:
                    grad_VC.addmm_(grads.T, chunk_NC)
                else:
                    grad_VC += grads.T @ chunk_NC
            if grad_V is not None:
                grad_V += logits.sum(0)
        ctx.grads, ctx.dtype = (grad_NC, grad_VC, grad_V), weight_VC.dtype
        ctx.mark_non_differentiable(losses_N)
        return objective, losses_N

    @staticmethod
    def backward(ctx: Any, grad_objective: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads = [each.mul_(grad_objective).to(ctx.dtype) if each is not None else None for each in ctx.grads]
        del ctx.grads
        return *grads, None, None, None
