"""The memory of one rank that trains, by what it is for: formulas, held against real processes by a test (within 15 %).

What is there all the time: weights, gradients, fp32 masters, the two moments of Adam, buckets in which gradients are exchanged,
snapshots. On top of that comes the larger of two peaks: where the backward pass begins (all activations and the loss), and
the optimizer's update (its temporaries). P parameters, W ranks, e bytes an element (bf16 2, fp32 4), in bytes:

                 ZeRO 0     1              2              3
    weights      e·P        e·P            e·P            e·P/W, and what is gathered
    gradients    4·P        e·P            e·P/W          e·P/W
    masters      -          4·P/W          4·P/W          4·P/W
    moments      8·P        8·P/W          8·P/W          8·P/W
    buckets      -          e·bucket       e·bucket       e·bucket
    update       -          4·P/W          4·P/W          4·P/W
    snapshot     12·P on rank 0 (ZeRO 0), else 12·P/W; twice that where the agent keeps two

Where S ranks share layers, P is what one of them has, and W the ranks that have the same. A critic doubles P and activations;
models that don't learn (a reference, reward models) are whole on every rank, and only read.

Activations are what transformers' layers keep for the backward pass in PyTorch's eager mode: `_layer`, element by element.
Snapshots are in the memory of the host, and so is what DeepSpeed offloads; on a CPU all is. There the C library's heap comes on
top: tensors below 32 MB that are freed leave gaps between those that stay. Measured with glibc on a Llama of 19 M parameters
(ZeRO 0, fp32): 858 MiB where each tensor has pages of its own (MALLOC_MMAP_THRESHOLD_), of 915 by the formulas, and 1,091 as it
is; the difference is 0.6 of the activations. Two ranks in bf16 with ZeRO 2 took 516 of 536 with pages of their own.
"""

from dataclasses import dataclass, fields
from typing import Any

from .architecture import Architecture, Stack
from .training_stages import TrainingStage

DEFAULT_BUCKET = 500_000_000
"""Elements that DeepSpeed reduces at once, where `reduce_bucket_size` doesn't say otherwise."""
GATHERED = 1_000_000_000
"""Parameters that ZeRO 3 keeps gathered at most (`stage3_max_live_parameters`)."""
LOGITS_BYTES = {"cpu": 24 << 20, "cuda": 512 << 20}
"""Of the logits that the loss makes at once, in fp32."""
HEAP_GAPS = 0.6
"""Of the activations, on a CPU."""
PROCESS_BYTES = 600 * 2**20
"""Of a rank before it has a model: torch, DeepSpeed, transformers, and on a GPU as much there for the CUDA context."""


@dataclass(frozen=True)
class Layout:
    """How a training is spread over ranks, and cut."""

    ranks: int
    micro_batch: int
    sequence_length: int
    """Positions of a sequence that a rank has."""
    rows: int = 1
    """Sequences of each that micro_batch counts."""
    zero: int = 0
    bf16: bool = False
    on_gpu: bool = False
    recompute: bool = False
    """Whether activations of a layer are computed again in the backward pass."""
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket: int = DEFAULT_BUCKET
    overlaps: bool = False
    """Whether exchanging a bucket overlaps with filling the next one: two buckets, then."""
    snapshot_slots: int = 1
    sharers: int = 1
    """Ranks that share each layer."""
    critic: bool = False
    """Whether a second model of the same size learns beside the first."""
    frozen: int = 0
    """Bytes of models that don't learn, of which each rank has the whole."""
    exchanges: bool = False
    """Whether attention exchanges parts of sequences for heads: it keeps what goes in and out, before and after."""

    @property
    def models(self) -> int:
        """Those that learn."""
        return 2 if self.critic else 1

    @property
    def element(self) -> int:
        """Bytes of a weight as layers use it."""
        return 2 if self.bf16 else 4

    @property
    def tokens(self) -> int:
        """In one forward pass of a rank."""
        return self.micro_batch * self.rows * self.sequence_length


def layout_of(stage: TrainingStage, ranks: int, *, on_gpu: bool, snapshot_slots: int = 1) -> Layout:
    """As the stage's settings say. What DeepSpeed would refuse is taken as not given."""
    zero = _object(stage.deepspeed.get("zero_optimization"))
    number = zero.get("stage", 0)
    number = number if number in (0, 1, 2, 3) else 0
    return Layout(
        ranks=ranks,
        micro_batch=stage.micro_batch,
        rows=stage.rows,
        sequence_length=stage.sequence_length // stage.sequence_parallel,
        zero=number,
        bf16=bool(_object(stage.deepspeed.get("bf16")).get("enabled")),
        on_gpu=on_gpu,
        recompute=stage.activation_checkpointing,
        offload_optimizer=_object(zero.get("offload_optimizer")).get("device") == "cpu",
        offload_parameters=_object(zero.get("offload_param")).get("device") == "cpu",
        bucket=int(zero.get("reduce_bucket_size", DEFAULT_BUCKET)),
        overlaps=bool(zero.get("overlap_comm", number == 3)),
        snapshot_slots=snapshot_slots,
        sharers=stage.tensor_parallel,
        exchanges=stage.sequence_parallel > 1,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank on its device."""

    weights: int
    frozen: int
    """Models that don't learn."""
    gradients: int
    masters: int
    moments: int
    buckets: int
    activations: int
    logits: int
    """Of the loss and of what it hands back."""
    update: int
    heap: int
    """Gaps of the C library's heap, on a CPU."""
    snapshot: int
    """0 where it is in another memory than the device's."""
    host: int
    """Of the host, for a rank on a GPU: snapshots, and what is offloaded."""

    @property
    def device(self) -> int:
        """At most, at one moment: `update` and the pass come in turn."""
        learning = self.weights + self.gradients + self.masters + self.moments + self.buckets
        constant = self.frozen + learning + self.snapshot + self.heap
        return constant + max(self.activations + self.logits, self.update)

    def parts(self) -> dict[str, int]:
        """By name, those that are there."""
        return {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name)}


def memory_of_a_rank(model: Architecture, layout: Layout) -> Memory:
    """Of rank 0, which holds most."""
    count = layout.models * (model.parameters - model.in_layers + model.in_layers // layout.sharers)
    element, zero = layout.element, layout.zero
    own = -(-count // (layout.ranks // layout.sharers)) if zero else count
    masters, moments = (4 * own if zero else 0), 8 * own
    gradients = {0: 4 * count, 1: element * count, 2: element * own, 3: element * own}[zero]
    weights = element * (own + min(count, GATHERED) if zero == 3 else count)
    host = 0
    if layout.offload_optimizer and zero:
        host += masters + moments + 4 * own
        masters = moments = 0
    if layout.offload_parameters and zero == 3:
        host += element * own
        weights -= element * own
    snapshot = 12 * own * layout.snapshot_slots
    memory = Memory(
        weights=weights,
        frozen=layout.frozen,
        gradients=gradients,
        masters=masters,
        moments=moments,
        buckets=_buckets(count, layout),
        activations=layout.models * _activations(model, layout),
        logits=_logits(model, layout),
        update=_update(own, layout),
        heap=0,
        snapshot=0,
        host=host + snapshot,
    )
    if layout.on_gpu:
        return memory
    values = {field.name: getattr(memory, field.name) for field in fields(memory)}
    heap = int(HEAP_GAPS * memory.activations)
    return Memory(**{**values, "masters": masters + host, "heap": heap, "snapshot": snapshot, "host": 0})


def _buckets(count: int, layout: Layout) -> int:
    """A GPU allocates a bucket whole; of a CPU's memory only what is written to counts."""
    if not layout.zero:
        return 0
    elements = layout.bucket if layout.on_gpu else min(count, layout.bucket)
    return layout.element * elements * (2 if layout.overlaps else 1)


def _update(own: int, layout: Layout) -> int:
    """The fused AdamW needs nothing of its own; ZeRO 1 to 3 copy the rank's gradients into one tensor for it."""
    return 4 * own if layout.zero and not layout.offload_optimizer else 0


def _activations(model: Architecture, layout: Layout) -> int:
    """Kept from the forward pass until the backward pass comes to them, and what one layer needs then."""
    layers = [_layer(stack, layout) for stack in model.stacks]
    if layout.recompute:
        kept = sum(stack.layers * stack.hidden * layout.element for stack in model.stacks) + max(layers)
    else:
        kept = sum(stack.layers * layer for stack, layer in zip(model.stacks, layers, strict=True))
    last = _norm(model.stacks[-1], layout) * len(model.stacks)
    return layout.tokens * (kept + last)


def _norm(stack: Stack, layout: Layout) -> int:
    """Bytes a token. An RMS norm keeps its input in fp32, normalised values and output; a layer norm input and output."""
    if stack.norm == "layer":
        return 2 * layout.element * stack.hidden
    return (4 + 2 * layout.element) * stack.hidden


def _layer(stack: Stack, layout: Layout) -> int:
    """Bytes a token: norms, rotated queries and keys, values, what attention gives, and the feed-forward part."""
    element = layout.element
    in_and_out = element * 2 * (stack.queries + stack.keys)
    attention = in_and_out * (2 if layout.exchanges else 1) + 4 * stack.heads
    cross = 2 * attention if stack.cross else attention
    inner = element * (4 if stack.gated else 5) * stack.inner
    norms = 3 if stack.cross else 2
    return norms * _norm(stack, layout) + (cross + inner) // layout.sharers


def _logits(model: Architecture, layout: Layout) -> int:
    """Logits of a chunk of rows, in fp32 and as the head gives them, and the gradients of the head and of what goes into it."""
    rows = max(1, min(layout.tokens, LOGITS_BYTES["cuda" if layout.on_gpu else "cpu"] // (4 * model.vocabulary)))
    logits = (4 if not layout.bf16 else 8) * rows * model.vocabulary
    return logits + 4 * model.head + layout.element * layout.tokens * model.hidden


def _object(given: Any) -> dict[str, Any]:
    return given if isinstance(given, dict) else {}
