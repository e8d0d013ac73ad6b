"""However parameters are cut and dealt out to shards, whoever cuts them otherwise reads the same elements."""

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import save
from trainyard_api.storage import Files
from trainyard_trainer.checkpoint.tensors import Piece, Shards, Source, Stored
from trainyard_trainer.engine.state import share

KINDS = ("master", "exp_avg")

Cuts = dict[str, list[tuple[int, int]]]
"""Parameter → for each rank, the elements [start, stop) that it holds; none where they are equal."""


@dataclass(frozen=True)
class Parameters:
    sizes: dict[str, int]

    def elements(self, kind: str, name: str) -> torch.Tensor:
        """Every element of every parameter is another number."""
        before = sum(size for other, size in self.sizes.items() if other < name) + 10_000 * KINDS.index(kind)
        return torch.arange(before, before + self.sizes[name], dtype=torch.float32)


@st.composite
def cuts(draw: st.DrawFn, parameters: Parameters) -> Cuts:
    """Each parameter cut at any places, its parts dealt out to the ranks in any order."""
    world_size = draw(st.integers(1, 5))
    result: Cuts = {}
    for name, size in parameters.sizes.items():
        places = sorted(draw(st.lists(st.integers(0, size), min_size=world_size - 1, max_size=world_size - 1)))
        result[name] = draw(st.permutations(list(zip([0, *places], [*places, size], strict=True))))
    return result


def shard(parameters: Parameters, cuts: Cuts, rank: int) -> bytes:
    held = {name: parts[rank] for name, parts in cuts.items() if parts[rank][0] < parts[rank][1]}
    tensors = {
        f"{kind}/{name}": parameters.elements(kind, name)[start:stop].clone()
        for kind in KINDS
        for name, (start, stop) in held.items()
    }
    return save(tensors, {"starts": json.dumps({name: start for name, (start, _) in held.items()}), "training": "{}"})


def in_memory(parameters: Parameters, cuts: Cuts) -> list[Source]:
    ranks = len(next(iter(cuts.values())))
    return [memoryview(bytearray(shard(parameters, cuts, rank))) for rank in range(ranks)]


SETS = st.dictionaries(st.text("abc.", min_size=1, max_size=3), st.integers(1, 40), min_size=1, max_size=6).map(
    Parameters
)


@given(st.data())
def test_what_one_partition_wrote_any_other_reads(data: st.DataObject) -> None:
    parameters = data.draw(SETS)
    written, wanted = data.draw(cuts(parameters)), data.draw(cuts(parameters))
    with tempfile.TemporaryDirectory() as folder:
        sources = in_memory(parameters, written)
        for rank, source in enumerate(sources):
            if data.draw(st.booleans(), "in storage"):
                Path(folder, str(rank)).write_bytes(source)
                sources[rank] = Stored(Files(Path(folder)), str(rank), len(source))
        pieces = [Piece(kind, name, *part) for kind in KINDS for name, parts in wanted.items() for part in parts]
        for piece, values in zip(pieces, Shards(sources).read_each(pieces), strict=True):
            assert torch.equal(values, parameters.elements(piece.kind, piece.name)[piece.start : piece.stop]), piece


@given(st.data())
def test_an_element_that_is_missing_or_there_twice_is_found(data: st.DataObject) -> None:
    parameters = data.draw(SETS)
    written = data.draw(cuts(parameters))
    name = data.draw(st.sampled_from(sorted(parameters.sizes)))
    size = parameters.sizes[name]
    rank = data.draw(st.integers(0, len(written[name]) - 1))
    part = tuple(sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size)))))
    assume(set(range(*part)) != set(range(*written[name][rank])))
    written[name] = [part if other == rank else each for other, each in enumerate(written[name])]  # type: ignore[misc]
    with pytest.raises(KeyError, match="not there once each"):
        Shards(in_memory(parameters, written)).read("master", name, 0, size)


@given(st.integers(1, 1000), st.integers(1, 70))
def test_equal_shares_are_all_elements_once_and_in_turn(total: int, world_size: int) -> None:
    shares = [share(total, world_size, rank) for rank in range(world_size)]
    assert [element for start, length in shares for element in range(start, start + length)] == list(range(total))
    assert max(length for _, length in shares) == math.ceil(total / world_size)
