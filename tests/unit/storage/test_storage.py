"""One table of promises, kept by a folder of this machine and by a real S3 server over HTTP."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_proxy import faulty_proxy
from object_store import ObjectStore, connected_to, object_store
from trainyard_api.objects import PART_BYTES
from trainyard_api.storage import Storage, open_storage, read_into
from trainyard_trainer.data.fetched import fetch_folder
from trainyard_trainer.errors import PermanentError

LARGE = os.urandom(1024) * (2 * PART_BYTES // 1024) + b"and a bit"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture
def connected(server: ObjectStore) -> Iterator[ObjectStore]:
    """A server that this process has the credentials of."""
    with connected_to(server):
        yield server


@pytest.fixture(params=["files", "objects"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "files":
        return open_storage(f"file://{tmp_path}/runs")
    server: ObjectStore = request.getfixturevalue("connected")
    return open_storage(server.uri(f"{tmp_path.name}/runs/"))


def nothing_is_there_before(storage: Storage) -> None:
    assert storage.names() == storage.names("step-1") == []
    for look in (storage.read, storage.size, lambda path: storage.read_range(path, 0, 1)):
        with pytest.raises(FileNotFoundError) as raised:
            look("step-1/manifest.json")
        assert str(raised.value.filename).endswith("runs/step-1/manifest.json")


def what_is_written_is_there(storage: Storage) -> None:
    storage.write("step-1/manifest.json", b"{}")
    assert storage.read("step-1/manifest.json") == b"{}"
    assert storage.size("step-1/manifest.json") == 2
    assert storage.names() == ["step-1"]
    assert storage.names("step-1") == ["manifest.json"]


def a_name_is_found_right_after_another_was_listed(storage: Storage) -> None:
    storage.write("attempts/1.json", b"1")
    assert storage.names("attempts") == ["1.json"]
    open_storage(storage.uri).write("attempts/2.json", b"2")
    assert storage.names("attempts") == ["1.json", "2.json"]


def writing_again_replaces(storage: Storage) -> None:
    storage.write("it", b"before")
    storage.write("it", b"after")
    assert storage.read("it") == b"after"
    assert storage.names() == ["it"]


def nothing_at_all_can_be_written(storage: Storage) -> None:
    storage.write("empty", b"")
    assert (storage.read("empty"), storage.size("empty"), storage.read_range("empty", 0, 0)) == (b"", 0, b"")


def large_content_comes_back_from_a_view_of_memory(storage: Storage) -> None:
    storage.write("shard", memoryview(LARGE))
    assert storage.size("shard") == len(LARGE)
    back = bytearray(len(LARGE))
    read_into(storage, "shard", memoryview(back))
    assert back == LARGE


def ranges_are_exact(storage: Storage) -> None:
    storage.write("it", b"0123456789")
    assert storage.read_range("it", 3, 7) == b"3456"
    assert storage.read_range("it", 9, 10) == b"9"
    for start, stop in ((8, 12), (10, 11), (20, 30)):
        with pytest.raises(OSError, match="it"):
            storage.read_range("it", start, stop)


def what_is_removed_is_gone_with_all_below(storage: Storage) -> None:
    for path in ("step-1/a", "step-1/b/c", "step-10/a", "step-1.txt"):
        storage.write(path, b"")
    storage.remove("step-1")
    assert storage.names() == ["step-1.txt", "step-10"]
    storage.remove("step-1.txt")
    storage.remove("step-1.txt")
    storage.remove("never/there")
    assert storage.names() == ["step-10"]


def sizes_are_of_all_that_is_below(storage: Storage) -> None:
    for path in ("in/b/c", "in/a", "in/b.txt", "inside"):
        storage.write(path, path.encode())
    assert list(storage.sizes("in").items()) == [("a", 4), ("b.txt", 8), ("b/c", 6)]
    assert storage.sizes("in/b") == {"c": 6}
    assert storage.sizes("in/a/x") == storage.sizes("none") == {}
    assert storage.sizes()["inside"] == 6


def a_place_below_is_a_place(storage: Storage) -> None:
    below = storage.at("run/base").at("checkpoints")
    assert below.uri == f"{storage.uri}/run/base/checkpoints"
    below.write("attempts/1.json", b"1")
    assert storage.read("run/base/checkpoints/attempts/1.json") == b"1"
    assert below.names() == ["attempts"]
    assert open_storage(below.uri).names("attempts") == ["1.json"]


PROMISES: list[Callable[[Storage], None]] = [
    nothing_is_there_before,
    what_is_written_is_there,
    a_name_is_found_right_after_another_was_listed,
    writing_again_replaces,
    nothing_at_all_can_be_written,
    large_content_comes_back_from_a_view_of_memory,
    ranges_are_exact,
    what_is_removed_is_gone_with_all_below,
    sizes_are_of_all_that_is_below,
    a_place_below_is_a_place,
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_storage_keeps_its_promises(storage: Storage, promise: Callable[[Storage], None]) -> None:
    promise(storage)


def test_a_store_that_does_not_answer_is_given_up(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainyard_api.objects._SECONDS", 1.0)
    with faulty_proxy(server.endpoint) as proxy, connected_to(ObjectStore(server.process, proxy.endpoint)):
        storage = open_storage(server.uri("runs"))
        proxy.break_down("silent")
        for ask in (lambda: storage.write("it", b"content"), lambda: storage.write("it", LARGE), storage.names):
            with pytest.raises(TimeoutError, match="s3://training/runs"):
                ask()


def test_a_folder_that_a_user_has_in_a_bucket_is_brought_once_an_attempt(
    connected: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINYARD_SCRATCH", str(tmp_path / "scratch"))
    root, field = connected.uri("mine"), "pretrain.model.path"
    storage = open_storage(f"{root}/models/gpt2")
    storage.write("config.json", b"{}")

    def content(attempt: str, path: str = "models/gpt2") -> bytes:
        folder = fetch_folder(path, root, field, attempt, note=lambda _: None)
        return (folder / "config.json").read_bytes()

    assert content("1") == b"{}"
    storage.write("config.json", b"[]")
    assert content("1") == b"{}", "another rank of the same attempt finds it there"
    assert content("2", f"{root}/models/gpt2") == b"[]"
    with pytest.raises(PermanentError, match=r"pretrain\.model\.path: s3://training/mine/nowhere does not exist"):
        content("1", "nowhere")
