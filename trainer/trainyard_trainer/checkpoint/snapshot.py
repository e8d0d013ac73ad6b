"""A rank's shard in host memory: the very bytes of its safetensors file, refreshed in place for each checkpoint.

The memory is anonymous (memfd): the writer process maps it through a descriptor that it inherits, and it is gone when all
who hold it are, however they ended; nothing in /dev/shm can be left behind. It is allocated before training, so a run that
has room for its first checkpoint has room for all.

Where the agent gives memory, and there is room for it (`memory`), there are two slots, refreshed in turn: the agent
outlives its ranks, and the slot that is whole stays so until the other one is.

Masters and moments change only in the optimizer's update, so they are copied on a thread while the next step runs forward
and backward, and that step's update waits for what is left. torch copies without the GIL; on a GPU through pinned memory
on a stream of its own. Random streams change with every draw: those few kilobytes are copied at once, with the history of
the numerics.
"""

import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..engine.engine import Engine
from ..engine.randomness import save_streams
from ..engine.state import MASTER, Fragment
from .tensors import CARRIED, NUMERICS, STREAM

_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.uint8: "U8"}
_ALIGNMENT = 64
_AS_IT_IS = (f"{STREAM}/", f"{NUMERICS}/", f"{CARRIED}/")


@dataclass(frozen=True)
class Layout:
    """Where everything is in a rank's shard."""

    header: bytes
    """The length and the JSON that a safetensors file begins with."""
    places: dict[str, tuple[int, Tensor]]
    """Name → first byte behind the header, and a tensor on no device."""

    @property
    def bytes(self) -> int:
        """Size of the shard."""
        return len(self.header) + sum(tensor.nbytes for _, tensor in self.places.values())


def lay_out(engine: Engine, training: str) -> Layout:
    """The shard of this rank, without state where other ranks save it. `training` is told with it (`tensors`)."""
    fragments = list(engine.saved_fragments())
    tensors = _stored({**_small(engine), **_state(fragments)})
    metadata = {"starts": json.dumps({each.name: each.start for each in fragments}), "training": training}
    if runs := {each.name: each.runs for each in fragments if each.runs.is_slice}:
        metadata["runs"] = json.dumps(runs)
    entries: dict[str, object] = {"__metadata__": metadata}
    places, offset = {}, 0
    for name, tensor in tensors.items():
        places[name] = (offset, tensor)
        span = [offset, offset := offset + tensor.nbytes]
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
    text = json.dumps(entries, separators=(",", ":")).encode()
    padded = math.ceil((8 + len(text)) / _ALIGNMENT) * _ALIGNMENT - 8
    return Layout(padded.to_bytes(8, "little") + text.ljust(padded), places)


class Snapshot:
    """The last shards of this rank, in one slot or two."""

    def __init__(self, engine: Engine, layout: Layout, memories: Sequence[int], *, kept: int | None = None) -> None:
        """`memories` are descriptors, one a slot. Slot `kept` holds what the rank began with, and is refreshed last."""
        self._engine, self._layout, self._memories = engine, layout, memories
        self._stream = torch.cuda.Stream(engine.device) if engine.device.type == "cuda" else None
        self._places = [{} if slot == kept else self._allocate(slot) for slot in range(len(memories))]
        self._next = 1 if kept == 0 else 0
        self._thread = ThreadPoolExecutor(1, "checkpoint-copy")
        self._copying: Future[None] | None = None

    @property
    def bytes(self) -> int:
        """Memory of all slots."""
        return len(self._memories) * self._layout.bytes

    @property
    def shard_bytes(self) -> int:
        """Memory of one."""
        return self._layout.bytes

    def begin(self, before: Callable[[int], None], then: Callable[[int], None]) -> None:
        """Copy what the state is now. Until `wait` has returned nothing may change it. Both callables are told the slot:
        `before` it is overwritten, `then` when it is whole.
        """
        slot, self._next = self._next, (self._next + 1) % len(self._memories)
        before(slot)
        places = self._places[slot] = self._places[slot] or self._allocate(slot)
        for name, values in _small(self._engine).items():
            places[name].copy_(values)
        pairs = [(places[name], values) for name, values in _state(self._engine.saved_fragments()).items()]
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream())
        self._copying = self._thread.submit(self._copy, pairs, partial(then, slot))

    def wait(self) -> None:
        """Return when the state may change again."""
        if self._copying:
            self._copying.result()
            self._copying = None

    def close(self) -> None:
        """Give the memory back, once all others who hold it have too."""
        self._thread.shutdown()
        for memory in self._memories:
            os.close(memory)

    def _allocate(self, slot: int) -> dict[str, Tensor]:
        """Give the slot its size and its header; returns name → its place."""
        memory, layout = self._memories[slot], self._layout
        os.ftruncate(memory, layout.bytes)
        mapping = mmap.mmap(memory, layout.bytes, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        mapping[: len(layout.header)] = layout.header
        content = torch.frombuffer(mapping, dtype=torch.uint8)
        if self._stream:  # pinned: the GPU copies into it by itself
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(content.data_ptr(), layout.bytes, 0))
        data = content[len(layout.header) :]
        return {
            name: data[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for name, (start, tensor) in layout.places.items()
        }

    def _copy(self, pairs: Iterable[tuple[Tensor, Tensor]], then: Callable[[], None]) -> None:
        with torch.no_grad(), torch.cuda.stream(self._stream) if self._stream else nullcontext():
            for place, values in pairs:
                place.copy_(values, non_blocking=True)
        if self._stream:
            self._stream.synchronize()
        then()


def _small(engine: Engine) -> dict[str, Tensor]:
    """What each rank has in a few kilobytes: its random streams, and the numerics that all have the same; and what the stage
    carries on.
    """
    kinds = {STREAM: save_streams(), NUMERICS: engine.numerics.tensors(), CARRIED: engine.carried()}
    return {f"{kind}/{name}": values for kind, tensors in kinds.items() for name, values in tensors.items()}


def _state(fragments: Iterable[Fragment]) -> dict[str, Tensor]:
    return {
        f"{kind}/{fragment.name}": values.detach() for fragment in fragments for kind, values in fragment.state.items()
    }


def _stored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the file holds, in its order and on no device: state as fp32, whatever the optimizer keeps it in, and all else
    as it is. Large elements first, so that all are aligned; and all weights in a row, for a reader that wants only them.
    """
    stored = {
        name: torch.empty(each.shape, dtype=each.dtype if name.startswith(_AS_IT_IS) else torch.float32, device="meta")
        for name, each in tensors.items()
    }
    return dict(
        sorted(stored.items(), key=lambda item: (-item[1].element_size(), not item[0].startswith(f"{MASTER}/")))
    )
