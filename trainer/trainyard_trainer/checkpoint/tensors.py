"""Reading shards: a rank's fragments and random streams, and the history of the numerics, in one safetensors file each.
`snapshot` lays them out.

master/<parameter>, exp_avg/<parameter>, exp_avg_sq/<parameter>    flat fp32, the elements from `starts` on
stream/<name>                                                      this rank's random streams
numerics/<name>                                                    how the numbers went, the same in every shard
carried/<name>                                                     what else the stage goes on with, in the first shard
metadata: starts                                                   JSON, parameter → first element of the fragment
          runs                                                     JSON, of slices: parameter → first, run, stride (`Runs`);
                                                                   the fragment is of the slice then
          training                                                 JSON, the manifest but for step, attempt, time and shards

A shard is in memory, or in storage, of which no more is read than is asked for. Pieces that lie close together come in one
request: an object store takes some 30 ms for each, however small it is.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from trainyard_api.checkpoint import Manifest
from trainyard_api.storage import Storage, read_into

from ..engine.state import Runs, whole

_DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "U8": torch.uint8}
STREAM, NUMERICS, CARRIED = "stream", "numerics", "carried"
_HEADER_BYTES = 256 * 1024
"""That are read to begin with; most headers are shorter."""
_BATCH_BYTES = 64 * 1024 * 1024
"""Of pieces that are read at once: the memory that this takes."""
_GAP_BYTES = 256 * 1024
"""What lies between two pieces is read with them, in vain, if it is less."""
_RUNS = 4
"""Read at once."""


@dataclass(frozen=True)
class Stored:
    """A shard in storage."""

    storage: Storage
    path: str
    bytes: int

    def read(self, start: int, stop: int) -> memoryview:
        content = memoryview(bytearray(stop - start))
        read_into(self.storage, self.path, content, start)
        return content


Source = memoryview | Stored
"""Where a shard is. What is in memory must be writable, for torch wants it to be."""


class Piece(NamedTuple):
    """Elements [start, stop) of a parameter's state of `kind`."""

    kind: str
    name: str
    start: int
    stop: int


class Shards:
    """The shards of one checkpoint together, as whole tensors or any range of them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """Reads the headers."""
        self._sources = sources
        with ThreadPoolExecutor(_RUNS) as pool:
            self._headers = list(pool.map(_read_header, sources))

    @property
    def training(self) -> str:
        """What `training_of` was when they were written."""
        return self._headers[0].training

    def read(self, kind: str, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a parameter's state of `kind`, flat fp32; KeyError if one isn't there, or twice."""
        [values] = self.read_each([Piece(kind, name, start, stop)])
        return values

    def read_each(self, pieces: Iterable[Piece]) -> Iterator[Tensor]:
        """The same of each piece, in turn; with few requests if the pieces go as the file does, kind by kind."""
        batch: list[Piece] = []
        elements = 0
        for piece in pieces:
            batch.append(piece)
            elements += piece.stop - piece.start
            if 4 * elements >= _BATCH_BYTES:
                yield from self._read_batch(batch)
                batch, elements = [], 0
        yield from self._read_batch(batch)

    def held(self, kind: str) -> Iterator[tuple[str, int, Tensor]]:
        """All that the shards hold of a kind: parameter, first element, elements."""
        for shard, header in enumerate(self._headers):
            for name, start in header.starts.items():
                entry = header.tensors[f"{kind}/{name}"]
                values = _tensor(self._view([_Span(shard, entry.start, entry.stop)])(0), entry.dtype)
                at = 0
                for low, high in header.runs_of(name).spans(start, start + len(values)):
                    yield name, low, values[at : at + high - low]
                    at += high - low

    def streams(self, rank: int) -> dict[str, Tensor]:
        """The random streams of the rank that wrote shard `rank`."""
        return self._small(STREAM, rank)

    def numerics(self) -> dict[str, Tensor]:
        """The history of the numerics."""
        return self._small(NUMERICS, 0)

    def carried(self) -> dict[str, Tensor]:
        """What else the stage goes on with, if anything."""
        return self._small(CARRIED, 0)

    def _small(self, kind: str, shard: int) -> dict[str, Tensor]:
        tensors = sorted(self._headers[shard].tensors.items())
        small = {name.removeprefix(f"{kind}/"): each for name, each in tensors if name.startswith(f"{kind}/")}
        view = self._view([_Span(shard, each.start, each.stop) for each in small.values()])
        return {
            name: _tensor(view(number), each.dtype).view(each.shape)
            for number, (name, each) in enumerate(small.items())
        }

    def _read_batch(self, pieces: list[Piece]) -> Iterator[Tensor]:
        parts = [part for number, piece in enumerate(pieces) for part in self._parts(number, piece)]
        view = self._view([part.span for part in parts])
        whole = [torch.empty(piece.stop - piece.start) for piece in pieces]
        for number, part in enumerate(parts):
            values = _tensor(view(number), torch.float32)
            whole[part.piece][part.offset :][: len(values)] = values
        yield from whole

    def _parts(self, number: int, piece: Piece) -> list["_Part"]:
        """Where the elements of a piece lie, in their order."""
        parts = sorted(self._held(number, piece), key=lambda part: part.offset)
        ends = [part.offset + (part.span.stop - part.span.start) // 4 for part in parts]
        if [0, *ends] != [*(part.offset for part in parts), piece.stop - piece.start]:
            held = ", ".join(
                f"{piece.start + part.offset}–{piece.start + end}" for part, end in zip(parts, ends, strict=True)
            )
            raise KeyError(
                f"{piece.kind}/{piece.name}: elements {piece.start}–{piece.stop} are not there once each, but {held or 'none'}"
            )
        return parts

    def _held(self, number: int, piece: Piece) -> Iterator["_Part"]:
        for shard, header in enumerate(self._headers):
            if (begin := header.starts.get(piece.name)) is None:
                continue
            entry = header.tensors[f"{piece.kind}/{piece.name}"]
            at = entry.start
            for first, last in header.runs_of(piece.name).spans(begin, begin + (entry.stop - entry.start) // 4):
                low, high = max(piece.start, first), min(piece.stop, last)
                if low < high:
                    span = _Span(shard, at + 4 * (low - first), at + 4 * (high - first))
                    yield _Part(number, low - piece.start, span)
                at += 4 * (last - first)

    def _view(self, spans: list["_Span"]) -> Callable[[int], memoryview]:
        """Get these bytes, those in storage in few requests; the function gives those of the span of a number."""
        runs: list[_Span] = []
        run_of: dict[int, int] = {}
        for number in sorted(range(len(spans)), key=lambda each: spans[each]):
            span = spans[number]
            if isinstance(self._sources[span.shard], memoryview):
                continue
            last = runs[-1] if runs else None
            if last and last.shard == span.shard and span.start <= last.stop + _GAP_BYTES:
                runs[-1] = last._replace(stop=max(last.stop, span.stop))
            else:
                runs.append(span)
            run_of[number] = len(runs) - 1
        with ThreadPoolExecutor(_RUNS) as pool:
            read = list(pool.map(self._bytes, runs))

        def view(number: int) -> memoryview:
            span = spans[number]
            if number not in run_of:
                return self._bytes(span)
            first = runs[run_of[number]].start
            return read[run_of[number]][span.start - first : span.stop - first]

        return view

    def _bytes(self, span: "_Span") -> memoryview:
        source = self._sources[span.shard]
        return source.read(span.start, span.stop) if isinstance(source, Stored) else source[span.start : span.stop]


def training_of(manifest: Manifest) -> str:
    """The part of the manifest that each shard carries: with it, shards in memory are a checkpoint by themselves.

    Nothing that says when or by whom: the same state is the same bytes.
    """
    return manifest.model_dump_json(
        by_alias=True, exclude={"step", "attempt", "time", "run_uid", "held_out_loss", "shards"}
    )


class _Span(NamedTuple):
    """Bytes [start, stop) of a shard."""

    shard: int
    start: int
    stop: int


class _Part(NamedTuple):
    """Of the piece of a number, the elements from `offset` on."""

    piece: int
    offset: int
    span: _Span


class _Entry(NamedTuple):
    """A tensor, and the bytes of the shard that it is."""

    dtype: torch.dtype
    shape: list[int]
    start: int
    stop: int


class _Header(NamedTuple):
    tensors: dict[str, _Entry]
    starts: dict[str, int]
    runs: dict[str, Runs]
    training: str

    def runs_of(self, name: str) -> Runs:
        """Of a parameter's part that the shard is of."""
        return self.runs.get(name) or whole(sys.maxsize)


def _read_header(source: Source) -> _Header:
    """What a safetensors file begins with: its own length, and JSON."""
    begin = source if isinstance(source, memoryview) else source.read(0, min(source.bytes, _HEADER_BYTES))
    data = 8 + int.from_bytes(begin[:8], "little")
    if data > len(begin) and isinstance(source, Stored):
        begin = source.read(0, data)
    entries = json.loads(bytes(begin[8:data]))
    metadata = entries.pop("__metadata__")
    tensors = {
        name: _Entry(_DTYPES[each["dtype"]], each["shape"], *(data + offset for offset in each["data_offsets"]))
        for name, each in entries.items()
    }
    runs = {name: Runs(*each) for name, each in json.loads(metadata.get("runs", "{}")).items()}
    return _Header(tensors, json.loads(metadata["starts"]), runs, metadata["training"])


def _tensor(content: memoryview, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
