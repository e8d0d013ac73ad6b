"""Log-probabilities of labels without the logits, whose gradients may have any weights.

What is minimised is a function of whole responses, so how much each token counts is known only when all are: backward makes the
logits again, a chunk of rows after another, which costs a third more of the head's products (`loss` knows the weights before,
and does without). The output head's own forward is replaced, as in `loss`, for there ZeRO 3 has its weight whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from trainyard_api.memory import LOGITS_BYTES

from ..data.batch import IGNORED, Batch
from .loss import linear_head


class LogProbabilities:
    """Of a model, whose forward gives no logits from now on."""

    def __init__(self, model: Any, temperature: float = 1.0) -> None:
        """At a temperature, by which logits are divided."""
        self._head, self._temperature = linear_head(model), temperature
        self._labels_N: Tensor
        self._head.forward = self._of_hidden  # type: ignore[method-assign]

    def leave_out_of_compiling(self) -> None:
        """Chunks are of many lengths, and their products are kernels already. (This imports torch's compiler.)"""
        self._head.forward = torch.compiler.disable(self._of_hidden)  # type: ignore[method-assign]

    def __call__(self, module: nn.Module, batch: Batch) -> Tensor:
        """Of each label, (B, T) in fp32, 0 where there is none. `module` is the model, or what DeepSpeed has wrapped it in."""
        self._labels_N = batch.labels.flatten()
        log_probabilities_N: Tensor = module(**batch.inputs, use_cache=False).logits
        del self._labels_N
        return log_probabilities_N.view_as(batch.labels)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """The model's forward gives logits meanwhile, for it to write with."""
        ours = self._head.__dict__.pop("forward")
        try:
            yield
        finally:
            self._head.forward = ours  # type: ignore[method-assign]

    def _of_hidden(self, hidden_BTC: Tensor) -> Tensor:
        """Instead of the head's forward."""
        hidden_NC = hidden_BTC.flatten(0, -2)
        bias = self._head.bias
        if self._temperature != 1:
            hidden_NC = hidden_NC / self._temperature
            bias = None if bias is None else bias / self._temperature
        log_probabilities: Tensor = _OfLabels.apply(hidden_NC, self._head.weight, bias, self._labels_N)
        return log_probabilities


class _OfLabels(torch.autograd.Function):
    """(rows, weight, bias, labels) → log-probability of each row's label."""

    @staticmethod
    def forward(ctx: Any, hidden_NC: Tensor, weight_VC: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
        found_N = torch.zeros(len(labels_N), dtype=torch.float32, device=hidden_NC.device)
        normalisers_N = torch.zeros_like(found_N)
        for rows in _chunks(labels_N, len(weight_VC)):
            logits = _logits(hidden_NC[rows], weight_VC, bias_V)
            normalisers_N[rows] = torch.logsumexp(logits, 1)
            found_N[rows] = logits.gather(1, labels_N[rows, None]).squeeze(1) - normalisers_N[rows]
        ctx.save_for_backward(hidden_NC, labels_N, normalisers_N)
        ctx.head = weight_VC, bias_V  # not saved: ZeRO 3 has other storage for it by then
        return found_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NC, labels_N, normalisers_N = ctx.saved_tensors
        weight_VC, bias_V = ctx.head
        to_hidden, to_weight, to_bias, _ = ctx.needs_input_grad
        grad_NC = torch.zeros_like(hidden_NC) if to_hidden else None
        grad_VC = torch.zeros_like(weight_VC, dtype=torch.float32) if to_weight else None
        grad_V = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and to_bias else None
        for rows in _chunks(labels_N, len(weight_VC)):
            logits = _logits(hidden_NC[rows], weight_VC, bias_V)
            to_logits = torch.exp(logits - normalisers_N[rows, None]).neg_()  # what is wanted, less softmax
            to_logits.scatter_add_(1, labels_N[rows, None], torch.ones_like(logits[:, :1]))
            to_logits *= grad_N[rows, None]
            grads = to_logits.to(weight_VC.dtype)
            if grad_NC is not None:
                grad_NC[rows] = grads @ weight_VC
            if grad_VC is not None:
                grad_VC += grads.T @ hidden_NC[rows]
            if grad_V is not None:
                grad_V += to_logits.sum(0)
        dtype = weight_VC.dtype
        return grad_NC, *(None if each is None else each.to(dtype) for each in (grad_VC, grad_V)), None


def _chunks(labels_N: Tensor, vocabulary: int) -> tuple[Tensor, ...]:
    """Rows that have a label, some at a time."""
    rows_N = (labels_N != IGNORED).nonzero().flatten()
    return rows_N.split(max(1, LOGITS_BYTES[labels_N.device.type] // (4 * vocabulary)))


def _logits(rows_NC: Tensor, weight_VC: Tensor, bias_V: Tensor | None) -> Tensor:
    logits = rows_NC @ weight_VC.T
    return (logits if bias_V is None else logits + bias_V).float()
