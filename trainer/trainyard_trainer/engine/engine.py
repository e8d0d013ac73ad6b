"""A model under DeepSpeed: one optimizer step on a global batch, held-out loss, and state by name.

The loss of a micro-batch is its sum over labels (`loss`), divided by the number of labels in the global batch: so it is the
mean over the labels of the global batch, however that is cut, also where micro-batches hold unequally many.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW
from trainyard_api.training_stages import TrainingStage

from ..data.batch import Batch
from ..errors import PermanentError, setting
from . import processes
from .compiling import refuse_without_compiler
from .configuration import deepspeed_configuration
from .criterion import Criterion, Lost
from .loss import Loss
from .numerics import Fault, Numerics
from .optimizer import adamw, set_learning_rate
from .state import Fragment, fragments, set_steps
from .step_times import StepTimes
from .tensor_parallel import clip, sharing_layers

T = TypeVar("T")


class Engine:
    """The model of one rank, with its optimizer."""

    def __init__(
        self,
        model: nn.Module,
        stage: TrainingStage,
        accumulation: int,
        device: torch.device,
        criterion: Criterion | None = None,
    ) -> None:
        """Hand the model to DeepSpeed. A collective: every rank must come here, with the same weights.

        `criterion` is of this model; if none is given, cross-entropy of its tokens.
        """
        configuration = deepspeed_configuration(stage, accumulation) | sharing_layers(stage, model)
        self.sharers = stage.tensor_parallel
        """Ranks that share layers, one after the other."""
        self.device = device
        self.accumulation = accumulation
        self.times = StepTimes(device)
        """Of the last step."""
        self.losses: list[float] = []
        """Of the last step, this rank's micro-batches' parts of the global batch's loss."""
        self.num_labels = 0
        """Of the last global batch, on all ranks."""
        self._clip_norm, self._updates = stage.optimizer.clip_norm, stage.updates
        self.parameter_shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        self.criterion: Criterion = criterion or Loss(model, stage.loss)
        self._adamw = adamw(model.to(device), stage.optimizer)
        self._deepspeed = _initialize(model, self._adamw, configuration)
        self.zero_stage: int = self._deepspeed.zero_optimization_stage()
        self.row_losses: list[tuple[Tensor, Tensor]] = []
        """Of the last gradients, by micro-batch: each row's losses in sum, in nats, and its labels that count."""
        self.figures: list[float] = []
        """Of the last gradients, this rank's sums of what the criterion shows."""
        if self.replicated and dist.get_world_size() == 1:
            # It would copy all gradients into one tensor and back, 4 bytes a parameter, with nobody to add them to.
            self._deepspeed.enable_backward_allreduce = False
        self.numerics = Numerics(stage.numerics)
        self.carried: Callable[[], dict[str, Tensor]] = dict
        """What else of this rank's is part of a checkpoint, always of the same names and shapes."""
        self._leave_out = False
        if self.zero_stage:
            _let_leave_out(self._deepspeed.optimizer, device, lambda: self._leave_out)

    def compile(self) -> None:
        """Have torch.compile make kernels, when they are first needed."""
        refuse_without_compiler(self.device)
        self.criterion.leave_out_of_compiling()
        self._deepspeed.compile()

    def gradients(self, micro_batches: Iterable[Batch]) -> float:
        """Forward and backward on this rank's share of a global batch: nothing but gradients changes.

        Returns this rank's part of the global batch's mean loss, in nats per label: their sum over ranks is that loss.
        """
        self._deepspeed.train()
        with self.times.of("data"):
            own = list(micro_batches)
        with self.times.of("wait"):
            self.num_labels = int(processes.add_up(sum(each.num_labels for each in own))[0])
        mean = 1 / max(1, self.num_labels)
        as_deepspeed_means = self.accumulation * dist.get_world_size()  # over micro-batches and ranks
        losses = torch.zeros(len(own), dtype=torch.float64, device=self.device)
        figures_F = torch.zeros(len(self.criterion.FIGURES), dtype=torch.float64, device=self.device)
        self.row_losses = []
        with self.times.of("forward"):
            self.criterion.look_ahead(self._deepspeed, ((batch.to(self.device), True) for batch in own))
        for number, batch in enumerate(own):
            if number:
                self._deepspeed.step()  # between micro-batches it only counts them
            with self.times.of("forward"):
                lost = self.criterion(self._deepspeed, batch.to(self.device))
                losses_B = lost.losses.sum(1, dtype=torch.float64)
                figures_F += lost.figures
            self.row_losses.append((losses_B, batch.labels_of_rows()))
            with self.times.of("backward"):
                self._deepspeed.backward(lost.objective * (mean * as_deepspeed_means))
            losses[number] = losses_B.sum() * mean
        self.losses, self.figures = losses.tolist(), figures_F.tolist()
        return sum(self.losses)

    def means(self, sums: Sequence[float], num_labels: int) -> dict[str, float]:
        """What the criterion shows, from all ranks' `figures` in sum, of so many labels."""
        return {name: total / max(1, num_labels) for name, total in zip(self.criterion.FIGURES, sums, strict=True)}

    def update(self, step: int, loss: float, learning_rate: float) -> tuple[float, Fault | None]:
        """Optimizer step `step` with these gradients, of the global batch's mean loss `loss`, unless there is a fault in them.

        Returns their global norm before clipping, and the fault, with which neither weights nor moments have changed: its
        gradients are gone, and the same step is to be made with the next batch. The norm of a loss at fault is not measured.
        """
        set_learning_rate(self._adamw, learning_rate)
        fault = self.numerics.judge_loss(step, loss)
        with self.times.of("optimizer"):
            grad_norm = self._step_unless(fault is not None)
        if not fault:
            fault = self.numerics.judge_gradients(step, loss, grad_norm)
        if fault:
            self.numerics.leave_out(fault)
        else:
            self.numerics.trained(loss)
        return grad_norm, fault

    def update_again(self, loss: float) -> None:
        """Another update within the step, unless there is a number in it that isn't finite: then nothing changes."""
        with self.times.of("optimizer"):
            grad_norm = self._step_unless(not math.isfinite(loss))
        if not math.isfinite(grad_norm):
            self.numerics.dropped += 1

    def drop(self) -> None:
        """Forget these gradients: nothing has changed."""
        self._step_unless(leave_out=True)

    def _step_unless(self, leave_out: bool) -> float:
        """The optimizer's step, and the norm; if it isn't finite, or `leave_out` makes it infinite, gradients are dropped."""
        if self.zero_stage:
            self._leave_out = leave_out
            self._deepspeed.step()
            return float(self._deepspeed.get_global_grad_norm())
        norm = math.inf if leave_out else self._clip()
        if not math.isfinite(norm):
            self._deepspeed.module.zero_grad(set_to_none=True)  # the optimizer passes over what has no gradient
        self._deepspeed.step()
        return norm

    def _clip(self) -> float:
        """Without ZeRO: clip the gradients. Returns their global norm before that."""
        module, most = self._deepspeed.module, self._clip_norm or math.inf
        if self.sharers > 1:
            return clip(dict(module.named_parameters()), self.parameter_shapes, most)
        return float(nn.utils.clip_grad_norm_(module.parameters(), most))

    def look_ahead(self, batches: Iterable[tuple[Batch, bool]]) -> None:
        """What comes before measuring these, of which some may not count. May be a collective."""
        self._deepspeed.eval()
        self.criterion.look_ahead(self._deepspeed, ((batch.to(self.device), counts) for batch, counts in batches))

    def measure(self, batch: Batch) -> Lost:
        """What a batch costs, without gradients."""
        return self.without_gradients(self.criterion, batch)

    @torch.no_grad()
    def without_gradients(self, what: Callable[[nn.Module, Any], T], batch: Batch) -> T:
        """`what` of the module and a batch: no dropout, and no random number is drawn. With ZeRO 3 a collective, for weights
        are gathered on the way.
        """
        self._deepspeed.eval()
        return what(self._deepspeed, batch.to(self.device))

    @torch.no_grad()
    def with_module(self, what: Callable[[nn.Module], T]) -> T:
        """`what` of the model itself, without gradients or dropout: for what calls it many times."""
        module = self._deepspeed.module
        was = module.training
        module.eval()
        found = what(module)
        module.train(was)
        return found

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter by name as the forward pass has it, whole and on the CPU, on rank 0; others see none. A collective."""
        for name, parameter in self._deepspeed.module.named_parameters():
            with import_deepspeed().zero.GatheredParameters([parameter]) if self.zero_stage == 3 else nullcontext():
                if not dist.get_rank():
                    yield name, parameter.detach().cpu().clone()

    def fragments(self) -> Iterator[Fragment]:
        """Weights and optimizer state that this rank holds, as views."""
        index = dist.get_rank() % self.sharers
        return fragments(self._deepspeed.module, self._deepspeed.optimizer, self._adamw, self.parameter_shapes, index)

    def saved_fragments(self) -> Iterator[Fragment]:
        """Those that no other rank has as well."""
        sharing, others_share = divmod(dist.get_rank(), self.sharers)
        if self.replicated and sharing:
            return
        for fragment in self.fragments():
            if not others_share or fragment.runs.is_slice:
                yield fragment

    @property
    def replicated(self) -> bool:
        """Whether every rank holds the same fragments, or slices of the same parameters."""
        return not self.zero_stage

    def set_steps(self, steps: int) -> None:
        """Count on from `steps` steps; the fragments are filled already, and the history of the numerics is known."""
        set_steps(self._adamw, steps * self._updates - self.numerics.dropped)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights in the forward pass."""
        return next(self._deepspeed.module.parameters()).dtype


def import_deepspeed() -> ModuleType:
    """DeepSpeed, without torch's compiler, which takes 1.6 s of CPU to import: more than all else between the fork of a rank
    and its first step. The one thing that asks for it is Muon, which any ZeRO optimizer imports to see that it isn't that.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops
    from deepspeed.runtime import compiler

    compile_ = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer
    finally:
        compiler.compile = compile_
    return deepspeed


def _let_leave_out(optimizer: Any, device: torch.device, leave_out: Callable[[], bool]) -> None:
    """Give DeepSpeed's optimizer a way to leave a step out: told of an infinite norm, all of them drop gradients, and
    change neither weights nor moments. Each has one method of its own that its step asks for norms.
    """
    infinite = torch.tensor(math.inf, device=device)
    said: dict[str, Any] = {
        "scaled_global_norm": infinite,  # ZeRO 1 and 2
        "_get_norm_groups": [infinite],  # ZeRO 3
        "get_grads_for_norm": ([infinite], {}),  # ZeRO 1 in bf16 with gradients added up in fp32
    }
    [name] = [name for name in said if hasattr(optimizer, name)]
    measured = getattr(optimizer, name)
    setattr(optimizer, name, lambda *given, **named: said[name] if leave_out() else measured(*given, **named))


def _initialize(model: nn.Module, optimizer: AdamW, configuration: dict[str, Any]) -> Any:
    """DeepSpeed's engine, without its start-up prints and without the compiler that its start-up would call."""
    deepspeed = import_deepspeed()
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
        raise PermanentError(f"{setting('deepspeed')}: DeepSpeed refuses it: {what}") from error
    return engine
