"""A writer that is killed in the middle of a shard, in a folder and in an object store: what it leaves goes, and nothing of
one that lives.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from conditions import eventually
from faulty_proxy import FaultyProxy, faulty_proxy
from object_store import ObjectStore, connected_to, object_store
from trainyard_api.checkpoint import MANIFEST, Attempt, Name
from trainyard_api.storage import Storage, open_storage
from trainyard_trainer.checkpoint.background import Writer
from trainyard_trainer.checkpoint.commit import begin

SHARD = "rank-00000.safetensors"
MIB = 1024 * 1024


class Place(Protocol):
    """Where checkpoints are, and how to meet a writer in the middle of a file there."""

    storage: Storage
    bytes: int
    """Of a shard that takes long enough to be met."""

    def kill_midway(self, writer: Writer, step: int, instead_of: int | None = None) -> int:
        """Have it write a shard, and kill it before that is whole. Returns the step: a later one if it was too fast."""

    def left(self) -> list[str]:
        """Paths of shards of which there is a part that nobody sees."""


class Folder:
    bytes = 256 * MIB

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.storage: Storage = open_storage(f"file://{folder}")

    def kill_midway(self, writer: Writer, step: int, instead_of: int | None = None) -> int:
        before = set(self._parts())
        writer.ask(write(step, instead_of))
        while not set(self._parts()) - before and not writer.answer():
            pass
        kill(writer)
        return step if set(self._parts()) - before else self.kill_midway(writer, step + 1, step)

    def left(self) -> list[str]:
        return [f"{part.parent.name}/{SHARD}" for part in self._parts()]

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob(f"step-*/.{SHARD}.*"))


class Bucket:
    bytes = 20 * MIB

    def __init__(self, uri: str, proxy: FaultyProxy) -> None:
        self._proxy = proxy
        self.storage: Storage = open_storage(uri)

    @contextmanager
    def held(self, writer: Writer, step: int, instead_of: int | None = None) -> Iterator[None]:
        """Have it write a shard, and hold that in the middle."""
        self._proxy.break_down("silent", "partNumber=")
        writer.ask(write(step, instead_of))
        eventually(lambda: self._proxy.hits, 20, "parts on their way")
        yield
        self._proxy.mend()

    def kill_midway(self, writer: Writer, step: int, instead_of: int | None = None) -> int:
        with self.held(writer, step, instead_of):
            kill(writer)
        return step

    def left(self) -> list[str]:
        store: Any = self.storage
        bucket, key, _ = store._store.split_path(store._root)
        uploads = store._store.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads", [])
        return sorted(upload["Key"].removeprefix(f"{key}/") for upload in uploads if upload["Key"].startswith(key))


@pytest.fixture(scope="module")
def bucket() -> Iterator[FaultyProxy]:
    with (
        object_store() as server,
        faulty_proxy(server.endpoint) as proxy,
        connected_to(ObjectStore(server.process, proxy.endpoint)),
    ):
        yield proxy


@pytest.fixture
def in_a_bucket(bucket: FaultyProxy, tmp_path: Path) -> Bucket:
    return Bucket(f"s3://training/{tmp_path.name}/checkpoints", bucket)


@pytest.fixture(params=["a folder", "a bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "a folder":
        return Folder(tmp_path / "checkpoints")
    found: Bucket = request.getfixturevalue("in_a_bucket")
    return found


@contextmanager
def a_writer(place: Place) -> Iterator[Writer]:
    memory = os.memfd_create("slot")
    os.ftruncate(memory, place.bytes)
    writer = Writer(place.storage.uri, [memory], place.bytes)
    try:
        yield writer
    finally:
        writer.close()
        os.close(memory)


def write(step: int, instead_of: int | None = None) -> dict[str, Any]:
    abandoned = Name(instead_of, 1) if instead_of else None
    return {"write": [step, 1, SHARD], "instead_of": abandoned, "slot": 0, "copy_to": None}


def kill(writer: Writer) -> None:
    os.kill(writer._process.pid, signal.SIGKILL)
    writer._process.wait()
    writer.revive()


def attempt(number: int) -> Attempt:
    return Attempt(attempt=number, after=0, run_uid="u", resumed_step=100)


def test_the_next_attempt_clears_away_what_a_killed_writer_has_left_wherever_it_was(place: Place) -> None:
    with a_writer(place) as writer:
        step = place.kill_midway(writer, 10)
        assert place.left() == [f"{Name(step, 1)}/{SHARD}"]
        place.storage.write(f"{Name(step, 1)}/{MANIFEST}", b"{}")  # others have gone on to commit: it is not removed
    begin(place.storage, attempt(2))
    assert place.left() == []
    assert place.storage.names(str(Name(step, 1))) == [MANIFEST]


@pytest.mark.parametrize("then", ["the same step again", "a later step"])
def test_the_writer_after_a_killed_one_clears_away_what_that_has_left(place: Place, then: str) -> None:
    with a_writer(place) as writer:
        step = place.kill_midway(writer, 10)
        later = step if then == "the same step again" else step + 10
        writer.ask(write(later, instead_of=step))
        assert (answer := writer.answer(30))
        assert answer.shard
        assert place.left() == []
        assert place.storage.names() == [str(Name(later, 1))]
        assert place.storage.names(str(Name(later, 1))) == [SHARD]


def test_what_a_living_writer_of_the_attempt_itself_is_at_is_let_be(in_a_bucket: Bucket) -> None:
    with a_writer(in_a_bucket) as writer:
        with in_a_bucket.held(writer, 10):
            begin(in_a_bucket.storage, attempt(1))
            assert in_a_bucket.left() == [f"{Name(10, 1)}/{SHARD}"]
        assert (answer := writer.answer(30))
        assert answer.shard
