"""What the prepare stage says of bad input: the field, and what to do."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from preparing import MANY, a_prepare_job, put, run_prepare
from trainyard_trainer.errors import PermanentError, RetryableError
from trainyard_trainer.group import Group
from trainyard_trainer.stages.prepare import prepare

NOBODY = 65534


def only(files: dict[str, str | bytes]) -> Callable[[Path], object]:
    return lambda folder: put(folder, files)


BAD_INPUT: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "a path that is not there": (
        only({}),
        {"sources": [{"builtin": "python-docs"}, {"path": "in/none"}]},
        r"prepare\.sources\[1\]\.path: .*/in/none does not exist; .* storage root",
    ),
    "an empty folder": (
        lambda folder: folder.mkdir(),
        {},
        r"prepare\.sources: no text in 0 files .*; name files that hold text",
    ),
    "nothing but empty files": (
        only({"a.txt": "", "b.jsonl": "\n"}),
        {},
        r"prepare\.sources: no text in 2 files with 2 documents \(2 empty dropped\)",
    ),
    "a link to nowhere": (
        lambda folder: (put(folder, MANY), (folder / "link").symlink_to("gone")),
        {},
        r"prepare\.sources\[0\]\.path: .*/in/link is no regular file .*; remove it",
    ),
    "a pipe, which would never end": (
        lambda folder: (put(folder, MANY), os.mkfifo(folder / "pipe")),
        {},
        r"prepare\.sources\[0\]\.path: .*/in/pipe is no regular file",
    ),
    "a row that is not JSON": (
        only({"rows.jsonl": '{"text": "fine"}\n{"text": "bro\n'}),
        {},
        r"/in/rows\.jsonl:2: not a row of JSON .* prepare\.sources\[0\]\.format",
    ),
    "a row nested too deep to parse": (
        only({"rows.jsonl": "[" * 200_000}),
        {},
        r"/in/rows\.jsonl:1: not a row of JSON",
    ),
    "a row without the text field": (
        only({"rows.jsonl": '\n{"body": "text"}\n'}),
        {},
        r"/in/rows\.jsonl:2: no text under the key 'text' \(the row has 'body'\); .* prepare\.sources\[0\]\.textField",
    ),
    "a row whose text is no text": (
        only({"rows.jsonl": '{"text": null}\n'}),
        {},
        r"/in/rows\.jsonl:1: no text under the key 'text'",
    ),
    "a row that is no object": (
        only({"rows.jsonl": '"text"\n'}),
        {},
        r"/in/rows\.jsonl:1: no text under the key 'text'; ",
    ),
    "a single document": (
        only({"a.txt": "all there is"}),
        {},
        r"prepare\.heldOutFraction: one document can't be on both sides, .*; cut the text into several files",
    ),
    "a fraction that holds nothing out": (
        only(MANY),
        {"heldOutFraction": 0.0001},
        r"prepare\.heldOutFraction: 0\.0001 holds out none of the 30 documents; use at least 0\.0",
    ),
    "a fraction that leaves nothing to train on": (
        only(MANY),
        {"heldOutFraction": 0.9999},
        r"prepare\.heldOutFraction: 0\.9999 leaves none of the 30 documents to train on; use at most 0\.9",
    ),
}


@pytest.mark.parametrize(("make", "settings", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_refused_with_field_and_remedy(
    tmp_path: Path, make: Callable[[Path], object], settings: dict[str, Any], message: str
) -> None:
    make(tmp_path / "in")
    sources = settings.get("sources", [{"path": "in"}])
    with pytest.raises(PermanentError, match=message):
        run_prepare(tmp_path, *sources, **{name: value for name, value in settings.items() if name != "sources"})
    assert not (tmp_path / "out/artifact.json").exists()


@pytest.mark.parametrize(("bad", "good"), [(0.0001, "at least"), (0.9999, "at most")])
def test_the_fraction_that_the_error_names_does_work(tmp_path: Path, bad: float, good: str) -> None:
    put(tmp_path / "in", MANY)
    with pytest.raises(PermanentError) as refused:
        run_prepare(tmp_path, {"path": "in"}, heldOutFraction=bad)
    run_prepare(
        tmp_path, {"path": "in"}, heldOutFraction=float(str(refused.value).split(good)[1].split()[0].strip(","))
    )


@pytest.mark.parametrize(
    ("name", "message"), [("d03.txt", r"d03\.txt can't be read"), ("sub", r"folder .*/sub can't be")]
)
def test_what_may_not_be_read_is_refused(name: str, message: str) -> None:
    with TemporaryDirectory() as storage, as_an_ordinary_user(Path(storage)):
        unreadable = put(Path(storage, "in"), {**MANY, "sub/a.txt": "text"}) / name
        unreadable.chmod(0)
        with pytest.raises(PermanentError, match=rf"prepare\.sources\[0\]\.path: .*{message}"):
            run_prepare(Path(storage), {"path": "in"})
        unreadable.chmod(0o700)


@contextmanager
def as_an_ordinary_user(folder: Path) -> Iterator[None]:
    """Root may read everything, so it lets go of that here; `folder` is given to the user that it becomes."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, NOBODY, -1)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_files_that_change_meanwhile_are_noticed(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)

    class Meddled(Group):
        def report(self, **fields: Any) -> None:
            if "progress" in fields and fields["progress"].message == "training the tokenizer":
                put(tmp_path / "in", {"d07.txt": "other text"})

    (tmp_path / "out").mkdir()
    with pytest.raises(RetryableError, match=r"prepare\.sources: files changed while they were read"):
        prepare(Meddled(a_prepare_job(tmp_path, {"sources": [{"path": "in"}]}), 1, 0, 1, 0, tmp_path / "out", {}))
    assert not (tmp_path / "out/artifact.json").exists()
