"""A rank's shard in host memory: the very bytes of its safetensors file, refreshed in place for each checkpoint.

The memory is anonymous (memfd): the writer process maps it through a descriptor that it inherits, and it is gone when
both are, however they ended; nothing in /dev/shm can be left behind. It is allocated once, before training, so a run that
has room for its first checkpoint has room for all.

Masters and moments change only in the optimizer's update, so they are copied on a thread while the next step runs forward
and backward, and that step's update waits for what is left. torch copies without the GIL; on a GPU through pinned memory
on a stream of its own. Random streams change with every draw: those few kilobytes are copied at once.
"""

import json
import math
import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext

import torch
from torch import Tensor

from ..engine.engine import Engine
from ..engine.randomness import save_streams

_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.uint8: "U8"}
_ALIGNMENT = 64


class Snapshot:
    """The shard of this rank."""

    def __init__(self, engine: Engine, *, streams_only: bool) -> None:
        """Lay out and allocate. `streams_only` for a rank whose state another one saves."""
        self._engine = engine
        self._streams_only = streams_only
        layout = {**self._streams(), **self._state()}
        header = _header(layout, {} if streams_only else {each.name: each.start for each in engine.fragments()})
        self.bytes = len(header) + sum(each.nbytes for each in _placed(layout).values())
        self.memory = os.memfd_create("trainyard-checkpoint", os.MFD_CLOEXEC)
        os.ftruncate(self.memory, self.bytes)
        self._mapping = mmap.mmap(self.memory, self.bytes, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._mapping[: len(header)] = header
        self._places = _views(torch.frombuffer(self._mapping, dtype=torch.uint8)[len(header) :], layout)
        self._thread = ThreadPoolExecutor(1, "checkpoint-copy")
        self._copying: Future[None] | None = None
        self._stream = None
        if engine.device.type == "cuda":
            _pin(self._mapping, self.bytes)
            self._stream = torch.cuda.Stream(engine.device)

    def begin(self, then: Callable[[], None]) -> None:
        """Copy what the state is now. Until `wait` has returned nothing may change it; `then` is called at the end."""
        for name, stream in self._streams().items():
            self._places[name].copy_(stream)
        pairs = [(self._places[name], values) for name, values in self._state().items()]
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream())
        self._copying = self._thread.submit(self._copy, pairs, then)

    def wait(self) -> None:
        """Return when the state may change again."""
        if self._copying:
            self._copying.result()
            self._copying = None

    def close(self) -> None:
        """Give the memory back, once the writer has too."""
        self._thread.shutdown()
        os.close(self.memory)

    def _copy(self, pairs: Iterable[tuple[Tensor, Tensor]], then: Callable[[], None]) -> None:
        with torch.no_grad(), torch.cuda.stream(self._stream) if self._stream else nullcontext():
            for place, values in pairs:
                place.copy_(values, non_blocking=True)
        if self._stream:
            self._stream.synchronize()
        then()

    def _streams(self) -> dict[str, Tensor]:
        return {f"stream/{name}": stream for name, stream in save_streams().items()}

    def _state(self) -> dict[str, Tensor]:
        if self._streams_only:
            return {}
        return {
            f"{kind}/{fragment.name}": values.detach()
            for fragment in self._engine.fragments()
            for kind, values in fragment.state.items()
        }


def _stored(name: str, tensor: Tensor) -> torch.dtype:
    """State is stored as fp32, whatever the optimizer keeps it in; streams as they are."""
    return tensor.dtype if name.startswith("stream/") else torch.float32


def _placed(layout: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the order of the file, as stored (on no device): large elements first, so that all are aligned."""
    stored = {name: torch.empty(each.shape, dtype=_stored(name, each), device="meta") for name, each in layout.items()}
    return dict(sorted(stored.items(), key=lambda item: -item[1].element_size()))


def _header(layout: dict[str, Tensor], starts: dict[str, int]) -> bytes:
    """The length and the JSON that a safetensors file begins with, padded with the spaces that the format allows."""
    entries: dict[str, object] = {"__metadata__": {"starts": json.dumps(starts)}}
    offset = 0
    for name, tensor in _placed(layout).items():
        end = offset + tensor.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    padded = math.ceil((8 + len(text)) / _ALIGNMENT) * _ALIGNMENT - 8
    return padded.to_bytes(8, "little") + text.ljust(padded)


def _views(data: Tensor, layout: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name → its place in the data."""
    views, offset = {}, 0
    for name, tensor in _placed(layout).items():
        views[name] = data[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        offset += tensor.nbytes
    return views


def _pin(mapping: mmap.mmap, size: int) -> None:
    """Let the GPU copy into the mapping by itself."""
    address = torch.frombuffer(mapping, dtype=torch.uint8).data_ptr()
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(address, size, 0))
