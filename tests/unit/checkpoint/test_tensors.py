"""Reading any range of any parameter, from shards in memory and in storage, with few requests."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from trainyard_api.storage import Files
from trainyard_trainer.checkpoint.tensors import Piece, Shards, Stored

KINDS = ("master", "exp_avg")
SHAPES = {"embedding": 1000, "norm": 7, "head": 501}
CUT = {"embedding": 640, "norm": 0, "head": 250}
"""The first shard holds the elements before, the second the others."""
VALUES = {f"{kind}/{name}": torch.randn(length) for kind in KINDS for name, length in SHAPES.items()}


@dataclass
class Counting(Files):
    """A folder that knows what was asked of it."""

    folder: Path
    requests: list[tuple[int, int]] = field(default_factory=list)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        self.requests.append((start, stop))
        return super().read_range(path, start, stop)


def shard(number: int) -> bytes:
    spans = {name: ((0, CUT[name]) if number == 0 else (CUT[name], length)) for name, length in SHAPES.items()}
    held = {name: span for name, span in spans.items() if span[0] < span[1]}
    tensors = {
        f"{kind}/{name}": VALUES[f"{kind}/{name}"][low:high] for kind in KINDS for name, (low, high) in held.items()
    }
    metadata = {"starts": json.dumps({name: low for name, (low, _) in held.items()}), "training": '{"worldSize": 2}'}
    return save({"stream/torch": torch.full((3,), number, dtype=torch.uint8), **tensors}, metadata)


@pytest.fixture
def storage(tmp_path: Path) -> Counting:
    storage = Counting(tmp_path)
    for number in range(2):
        storage.write(f"rank-{number}", shard(number))
    return storage


@pytest.fixture(params=["in memory", "in storage", "one in memory"])
def shards(request: pytest.FixtureRequest, storage: Counting) -> Shards:
    stored = [Stored(storage, f"rank-{number}", len(shard(number))) for number in range(2)]
    held = [memoryview(bytearray(shard(number))) for number in range(2)]
    return Shards({"in memory": held, "in storage": stored, "one in memory": [stored[0], held[1]]}[request.param])


def test_any_range_of_any_parameter_comes_back(shards: Shards) -> None:
    ranges = [(0, 1), (0, 639), (639, 641), (640, 1000), (0, 1000), (5, 5)]
    pieces = [
        Piece(kind, name, min(a, n), min(b, n)) for kind in KINDS for name, n in SHAPES.items() for a, b in ranges
    ]
    for piece, values in zip(pieces, shards.read_each(pieces), strict=True):
        assert torch.equal(values, VALUES[f"{piece.kind}/{piece.name}"][piece.start : piece.stop]), piece
        assert torch.equal(shards.read(*piece), values)


def test_what_no_shard_holds_is_an_error(shards: Shards) -> None:
    with pytest.raises(KeyError, match=r"master/head: elements 0–502 .* but 0–250, 250–501"):
        shards.read("master", "head", 0, 502)
    with pytest.raises(KeyError, match=r"master/bias: .* but none"):
        shards.read("master", "bias", 0, 1)


def test_all_that_is_held_comes_shard_by_shard(shards: Shards) -> None:
    back: dict[str, Tensor] = {name: torch.zeros(length) for name, length in SHAPES.items()}
    for name, start, values in shards.held("exp_avg"):
        back[name][start : start + len(values)] = values
    assert all(torch.equal(back[name], VALUES[f"exp_avg/{name}"]) for name in SHAPES)


def test_a_shard_tells_of_itself(shards: Shards) -> None:
    assert shards.training == '{"worldSize": 2}'
    assert [shards.streams(rank)["torch"].tolist() for rank in range(2)] == [[0, 0, 0], [1, 1, 1]]


def test_what_lies_together_is_one_request_a_shard(storage: Counting) -> None:
    shards = Shards([Stored(storage, f"rank-{number}", len(shard(number))) for number in range(2)])
    assert len(storage.requests) == 2
    storage.requests.clear()
    list(shards.read_each([Piece(kind, name, 0, length) for kind in KINDS for name, length in SHAPES.items()]))
    assert len(storage.requests) == 2
