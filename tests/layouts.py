"""The trainings that prove that any layout loads what any other saved, and that the loss of a global batch is the same however
it is split. `local/training/layout_ranks.py` runs them, `local/training/test_any_layout_loads_any_other.py` compares what
they leave.

A training begins from the seed, or from the newest checkpoint of another one. `ROUNDS` has them in an order in which
what a training begins from is there.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

GLOBAL_BATCH = 12
SAVED = 2
"""The step after which a training from the seed is saved; it takes two more, for the others to compare theirs with."""


@dataclass(frozen=True)
class Layout:
    """How the state of a model lies on how many ranks."""

    zero: int
    world: int
    model: str = "plain"
    bf16: bool = False
    zero_settings: tuple[tuple[str, Any], ...] = ()
    micro_batch: int | None = None
    """By default a rank's whole share."""

    def __str__(self) -> str:
        more = [f"{key} {value}" for key, value in self.zero_settings]
        more += [f"micro-batch {self.micro_batch}"] if self.micro_batch else []
        return ", ".join(
            [f"zero {self.zero}", f"world {self.world}", self.model, "bf16" if self.bf16 else "fp32", *more]
        )

    @property
    def deepspeed(self) -> dict[str, Any]:
        """The section of the stage."""
        zero = {key: {"device": value} if key.startswith("offload") else value for key, value in self.zero_settings}
        return {"zero_optimization": {"stage": self.zero, **zero}} | ({"bf16": {"enabled": True}} if self.bf16 else {})


@dataclass(frozen=True)
class Training:
    """Some steps in one layout; one, if it begins from another training."""

    layout: Layout
    begin: "Training | None" = None

    @property
    def start(self) -> int:
        return self.begin.saved if self.begin else 0

    @property
    def saved(self) -> int:
        """The step after which it is saved, if another one begins from it."""
        return self.start + 1 if self.begin else SAVED

    @property
    def last(self) -> int:
        return self.start + 1 if self.begin else SAVED + 2

    @property
    def round(self) -> int:
        return self.begin.round + 1 if self.begin else 0

    def __str__(self) -> str:
        return f"{self.layout} from {self.begin}" if self.begin else str(self.layout)


def _matrix(model: str, zeros: tuple[int, ...], worlds: tuple[int, ...], *, bf16: bool = False) -> list[Training]:
    """From each ZeRO stage to each, on as many ranks as before."""
    return [
        Training(Layout(after, world, model, bf16), Training(Layout(before, world, model, bf16)))
        for world, before, after in product(worlds, zeros, zeros)
    ]


def _moves(*moves: tuple[Layout, Layout]) -> list[Training]:
    return [Training(after, Training(before)) for before, after in moves]


_OPTIMIZER = (("offload_optimizer", "cpu"),)
_BOTH = (("offload_optimizer", "cpu"), ("offload_param", "cpu"))
_ALL_PARTITIONED = (("stage3_param_persistence_threshold", 0),)
_TWO_GROUPS_AND_MORE = (("sub_group_size", 10), *_ALL_PARTITIONED)
_FOUR = Training(Layout(3, 4))
_FOUR_THREE = Training(Layout(1, 3), _FOUR)

LOADED = [
    *_matrix("plain", (0, 1, 2, 3), (1, 2, 3, 4)),
    *_matrix("plain", (1, 2, 3), (1, 2, 3, 4), bf16=True),
    *_moves(*((Layout(before, 2), Layout(after, 3)) for before, after in ((0, 3), (2, 2), (2, 3), (3, 3)))),
    *_moves(*((Layout(before, 3), Layout(after, 2)) for before, after in ((3, 0), (2, 2), (3, 2), (3, 3)))),
    *_moves((Layout(2, 3, bf16=True), Layout(3, 2, bf16=True)), (Layout(2, 2), Layout(2, 2, bf16=True))),
    _FOUR_THREE,
    Training(Layout(2, 2), _FOUR_THREE),
    *_matrix("frozen", (0, 2, 3), (3,)),
    *_moves(
        (Layout(1, 2, "frozen", bf16=True), Layout(3, 3, "frozen", bf16=True)),
        (Layout(3, 4, "frozen"), Layout(1, 2, "frozen")),
        (Layout(3, 2, "LoRA", bf16=True), Layout(3, 2, "LoRA", bf16=True)),
        (Layout(3, 2, "LoRA"), Layout(2, 3, "LoRA")),
        (Layout(0, 2, "LoRA"), Layout(3, 4, "LoRA", zero_settings=_ALL_PARTITIONED)),
        (Layout(2, 2, "tied"), Layout(2, 2, "tied")),
        (Layout(3, 2, "tied"), Layout(1, 4, "tied")),
        (Layout(0, 3, "tied"), Layout(3, 2, "tied", zero_settings=_ALL_PARTITIONED)),
        (Layout(2, 2, "groups"), Layout(2, 2, "groups")),
        (Layout(1, 2, "groups"), Layout(3, 3, "groups", zero_settings=_TWO_GROUPS_AND_MORE)),
        (Layout(3, 3, "groups"), Layout(0, 2, "groups")),
        (Layout(1, 2, zero_settings=_OPTIMIZER), Layout(1, 2, zero_settings=_OPTIMIZER)),
        (Layout(2, 2, bf16=True, zero_settings=_OPTIMIZER), Layout(3, 3, bf16=True, zero_settings=_BOTH)),
        (Layout(3, 3, zero_settings=_BOTH), Layout(3, 3, zero_settings=_BOTH)),
        (Layout(3, 3, zero_settings=_BOTH), Layout(0, 2)),
        (Layout(0, 2, "frozen"), Layout(3, 4, "frozen", zero_settings=_BOTH)),
        (Layout(3, 4, "LoRA", zero_settings=_BOTH), Layout(2, 2, "LoRA", zero_settings=_OPTIMIZER)),
    ),
]
"""Those that begin from a checkpoint."""

SPLIT = [
    Training(Layout(zero, world, micro_batch=micro_batch))
    for zero, world, micro_batch in product((0, 1, 2, 3), (1, 2, 3, 4), (1, 2))
    if GLOBAL_BATCH // world % micro_batch == 0
]
"""Those that add up gradients over several micro-batches."""

BEGUN_FROM = {each.begin for each in LOADED if each.begin}
_ALL = dict.fromkeys([*(each.begin for each in LOADED if each.begin), *LOADED, *SPLIT])
ROUNDS = [[each for each in _ALL if each.round == number] for number in range(3)]
