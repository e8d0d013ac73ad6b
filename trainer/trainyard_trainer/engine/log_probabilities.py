"""Log-probabilities of labels without the logits, whose gradients may have any weights.

Where what is minimised is a function of whole responses, how much each token counts is known only when all are: backward makes
the logits again, a chunk of rows after another, which costs a third more of the head's products. Where it is a sum of functions
of single tokens, a chunk's gradients are worked out while its logits are there, as in `loss`. The output head's own forward is
replaced, as there, for in it ZeRO 3 has its weight whole.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from trainyard_api.memory import LOGITS_BYTES

from ..data.batch import IGNORED, Batch
from .loss import linear_head

TokenLoss = Callable[[Tensor, Tensor], Tensor]
"""What is to be minimised of each of some labels, (n,), by their log-probabilities (n,), and which labels these are (n,),
counted from the batch's first.
"""


class LogProbabilities:
    """Of a model, whose forward gives no logits from now on."""

    def __init__(self, model: Any, temperature: float = 1.0) -> None:
        """At a temperature, by which logits are divided."""
        self._head, self._temperature = linear_head(model), temperature
        self._labels_N: Tensor
        self._loss: TokenLoss | None = None
        self._found_N: Tensor
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

    def minimised(self, module: nn.Module, batch: Batch, loss: TokenLoss) -> tuple[Tensor, Tensor]:
        """The sum of all labels' losses, and their log-probabilities as above, without gradient."""
        self._labels_N, self._loss = batch.labels.flatten(), loss
        objective: Tensor = module(**batch.inputs, use_cache=False).logits
        found_N, self._loss = self._found_N, None
        del self._labels_N, self._found_N
        return objective, found_N.view_as(batch.labels)

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
        given = hidden_NC, self._head.weight, bias, self._labels_N
        if self._loss:
            objective: Tensor
            objective, self._found_N = _Minimised.apply(*given, self._loss)
            return objective
        log_probabilities: Tensor = _OfLabels.apply(*given)
        return log_probabilities


class _Gradients:
    """To rows, weight and bias, of those that are wanted, from log-probabilities' own."""

    def __init__(
        self, hidden_NC: Tensor, weight_VC: Tensor, bias_V: Tensor | None, labels_N: Tensor, wanted: Sequence[bool]
    ) -> None:
        to_hidden, to_weight, to_bias = wanted[:3]
        self._hidden_NC, self._weight_VC, self._labels_N = hidden_NC, weight_VC, labels_N
        self._to_NC = torch.zeros_like(hidden_NC) if to_hidden else None
        self._to_VC = torch.zeros_like(weight_VC, dtype=torch.float32) if to_weight else None
        self._to_V = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and to_bias else None

    def add(self, rows: Tensor, logits: Tensor, normalisers: Tensor, slopes: Tensor) -> None:
        """Those of some rows, whose log-probabilities have these. `logits` are worked in, and lost."""
        to_logits = logits.sub_(normalisers[:, None]).exp_().neg_()  # what is wanted, less softmax
        to_logits.scatter_add_(1, self._labels_N[rows, None], torch.ones_like(logits[:, :1]))
        to_logits *= slopes[:, None]
        grads = to_logits.to(self._weight_VC.dtype)
        if self._to_NC is not None:
            self._to_NC[rows] = grads @ self._weight_VC
        if self._to_VC is not None:
            if grads.dtype == torch.float32:
                self._to_VC.addmm_(grads.T, self._hidden_NC[rows])
            else:
                self._to_VC += grads.T @ self._hidden_NC[rows]
        if self._to_V is not None:
            self._to_V += to_logits.sum(0)

    def times(self, factor: Tensor | float) -> tuple[Tensor | None, ...]:
        """All of them, in the dtype of what they are of; once."""
        found, dtype = (self._to_NC, self._to_VC, self._to_V), self._weight_VC.dtype
        return tuple(None if each is None else each.mul_(factor).to(dtype) for each in found)


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
        weight_VC, _ = ctx.head
        gradients = _Gradients(hidden_NC, *ctx.head, labels_N, ctx.needs_input_grad)
        for rows in _chunks(labels_N, len(weight_VC)):
            gradients.add(rows, _logits(hidden_NC[rows], *ctx.head), normalisers_N[rows], grad_N[rows])
        return *gradients.times(1), None


class _Minimised(torch.autograd.Function):
    """(rows, weight, bias, labels, loss) → the sum of losses, log-probability of each row's label."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Tensor, weight_VC: Tensor, bias_V: Tensor | None, labels_N: Tensor, loss: TokenLoss
    ) -> tuple[Tensor, Tensor]:
        found_N = torch.zeros(len(labels_N), dtype=torch.float32, device=hidden_NC.device)
        objective = torch.zeros((), dtype=torch.float32, device=hidden_NC.device)
        ctx.gradients = _Gradients(hidden_NC, weight_VC, bias_V, labels_N, ctx.needs_input_grad)
        done = 0
        for rows in _chunks(labels_N, len(weight_VC)):
            logits = _logits(hidden_NC[rows], weight_VC, bias_V)
            normalisers = torch.logsumexp(logits, 1)
            found = logits.gather(1, labels_N[rows, None]).squeeze(1) - normalisers
            found_N[rows] = found
            numbers = torch.arange(done, done + len(rows), device=rows.device)
            done += len(rows)
            with torch.enable_grad():
                losses = loss(found.requires_grad_(), numbers).sum()
            objective += losses.detach()
            [slopes] = torch.autograd.grad(losses, found)
            ctx.gradients.add(rows, logits, normalisers, slopes)
        ctx.mark_non_differentiable(found_N)
        return objective, found_N

    @staticmethod
    def backward(ctx: Any, grad_objective: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients.times(grad_objective)
        del ctx.gradients
        return *gradients, None, None


def _chunks(labels_N: Tensor, vocabulary: int) -> tuple[Tensor, ...]:
    """Rows that have a label, some at a time."""
    rows_N = (labels_N != IGNORED).nonzero().flatten()
    return rows_N.split(max(1, LOGITS_BYTES[labels_N.device.type] // (4 * vocabulary)))


def _logits(rows_NC: Tensor, weight_VC: Tensor, bias_V: Tensor | None) -> Tensor:
    logits = rows_NC @ weight_VC.T
    return (logits if bias_V is None else logits + bias_V).float()
