"""Inputs on their way from an object store to a worker's scratch: each byte checked, none brought twice."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mounts import mounted
from trainyard_api.storage import Files, Storage
from trainyard_trainer.errors import PermanentError, RetryableError
from trainyard_trainer.scratch import Known, fetch, folder_of, one_at_a_time, wanted_files

CONTENT = {"tokenizer/tokenizer.json": b"{}", "train/shard-00000.bin": bytes(range(256)) * 300, "train/empty": b""}


class Counted(Files):
    """A folder that remembers what was read of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[str] = []

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        self.asked.append(path)
        return super().read_range(path, start, stop)


@pytest.fixture
def source(tmp_path: Path) -> Counted:
    storage = Counted(tmp_path / "bucket")
    for path, content in CONTENT.items():
        storage.write(path, content)
    return storage


FILES = [Known(path, len(content), hashlib.sha256(content).hexdigest()) for path, content in CONTENT.items()]


def quietly(message: str) -> None:
    """Nobody listens."""


def brought(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_files_arrive_and_how_far_it_is_is_told(source: Counted, tmp_path: Path) -> None:
    said: list[str] = []
    fetch(source, FILES, tmp_path / "here", said.append)
    assert brought(tmp_path / "here") == CONTENT
    assert said[-1] == f"fetching {source.uri}: 0.1 of 0.1 MB"


def test_what_an_interrupted_try_has_brought_is_not_brought_again_but_what_it_left_in_part_is(
    source: Counted, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    (here / "train").mkdir(parents=True)
    (here / "train/shard-00000.bin.part").write_bytes(b"half")
    fetch(source, FILES[:1], here, quietly)
    source.asked.clear()
    fetch(source, FILES, here, quietly)
    assert source.asked == ["train/shard-00000.bin"]
    assert brought(here) == CONTENT


def test_another_files_content_under_the_same_name_is_replaced(source: Counted, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "tokenizer").mkdir(parents=True)
    (here / "tokenizer/tokenizer.json").write_bytes(b"[]")
    fetch(source, FILES, here, quietly)
    assert brought(here) == CONTENT


def other_content(storage: Storage, files: list[Known]) -> list[Known]:
    storage.write(files[0].path, b"[]")
    return files


def shorter(storage: Storage, files: list[Known]) -> list[Known]:
    storage.write(files[0].path, b"{")
    return files


def missing(storage: Storage, files: list[Known]) -> list[Known]:
    return [replace(files[0], path="gone")]


WRONG: dict[str, tuple[Callable[[Storage, list[Known]], list[Known]], type[Exception], str]] = {
    "other content than the artifact says": (
        other_content,
        PermanentError,
        "has other content than artifact.json says",
    ),
    "fewer bytes": (shorter, OSError, "ends at byte 1, before 2"),
    "nothing there": (missing, FileNotFoundError, "gone"),
}


@pytest.mark.parametrize(("spoil", "kind", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_in_storage_is_never_taken(
    source: Counted,
    tmp_path: Path,
    spoil: Callable[[Storage, list[Known]], list[Known]],
    kind: type[Exception],
    words: str,
) -> None:
    with pytest.raises(kind, match=words):
        fetch(source, spoil(source, FILES), tmp_path / "here", quietly)
    assert not (tmp_path / "here" / FILES[0].path).exists()


def test_a_scratch_without_room_says_how_much_it_takes_and_which_variable_names_another(
    source: Counted, tmp_path: Path
) -> None:
    (tmp_path / "small").mkdir()
    with (
        mounted(tmp_path / "small", "size=16k"),
        pytest.raises(RetryableError, match=r"No space left.* 76,800 bytes must go there: point TRAINYARD_SCRATCH"),
    ):
        fetch(source, FILES, tmp_path / "small", quietly)


@pytest.mark.parametrize("path", ["../key", "/etc/passwd", "a//b", "a/./b", "", "a/"])
def test_a_name_that_leads_out_of_the_folder_is_refused(path: str) -> None:
    with pytest.raises(PermanentError, match="can't be the name of a file here"):
        wanted_files({"files": {path: {"bytes": 0, "sha256": ""}}}, "s3://bucket/corpus")


def test_a_folder_as_storage_is_worked_in_as_it_is_and_a_bucket_has_a_folder_in_scratch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRAINYARD_SCRATCH", "/scratch")
    assert folder_of("file:///storage/team/run/base", "inputs") == Path("/storage/team/run/base")
    assert folder_of("s3://bucket/runs/base/", "inputs") == Path("/scratch/inputs/bucket/runs/base")


def test_one_process_of_a_worker_fetches_and_the_others_wait(tmp_path: Path) -> None:
    holder = "import sys, pathlib; from trainyard_trainer.scratch import one_at_a_time\n"
    holder += "with one_at_a_time(pathlib.Path(sys.argv[1]), print): print('mine', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holder, str(tmp_path / "here")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "mine\n"
        waits: list[int] = []

        def waiting() -> None:
            waits.append(1)
            other.stdin.close()

        with one_at_a_time(tmp_path / "here", waiting):
            assert waits
