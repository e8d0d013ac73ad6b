"""The prepare stage on real files: what it makes, that it makes it again the same, and what it says of bad input."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import Job
from trainyard_trainer.artifacts import read_artifact
from trainyard_trainer.data import corpus
from trainyard_trainer.data.shards import TokenShards
from trainyard_trainer.data.tokenizer import token_bytes
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.evaluation.baselines import unigram_bits_per_byte, zlib_bits_per_byte
from trainyard_trainer.group import Group
from trainyard_trainer.stages.prepare import prepare

NOBODY = 65534


def a_job(storage: Path, settings: dict[str, Any]) -> Job:
    return Job(
        namespace="default",
        run="tiny",
        run_uid="u",
        stage="corpus",
        kind="prepare",
        settings={"heldOutFraction": 0.3, "tokenizer": {"vocabSize": 300}, **settings},
        seed=0,
        storage_uri=f"file://{storage}",
        output_uri=f"file://{storage}/out",
        inputs={},
    )


def run(storage: Path, *sources: dict[str, Any], out: str = "out", attempt: int = 1, **settings: Any) -> dict[str, Any]:
    """Prepare `sources` under `storage` and return the artifact's content."""
    output = storage / out
    output.mkdir(exist_ok=True)
    job = a_job(storage, {"sources": sources, **settings})
    prepare(Group(job, attempt=attempt, rank=0, world_size=1, local_rank=0, output=output, inputs={}))
    return read_artifact(output, "prepare")


def texts(output: Path, split: str) -> list[str]:
    """The documents of a split, decoded; each must end with the end of text, and only there."""
    shards, tokenizer = TokenShards(output / split), Tokenizer.from_file(str(output / "tokenizer/tokenizer.json"))
    documents = np.split(shards.window(0, len(shards)), shards.document_ends.astype(np.int64))[:-1]
    end = tokenizer.token_to_id("<|endoftext|>")
    assert all(document[-1] == end and end not in document[:-1] for document in documents)
    return [tokenizer.decode(document[:-1].tolist(), skip_special_tokens=False) for document in documents]


def put(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


MANY = {f"d{number:02}.txt": f"document {number}: naïve 🦜 text\r\n" * (number + 1) for number in range(30)}


def test_every_document_is_on_one_side_once_and_comes_back_whole(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    artifact = run(tmp_path, {"path": "in"}, shardTokens=1024)
    train, held_out = (texts(tmp_path / "out", split) for split in ("train", "held-out"))
    assert sorted(train + held_out) == sorted(MANY.values())
    assert train and held_out and not set(train) & set(held_out)
    for split, folder in (("train", "train"), ("heldOut", "held-out")):
        shards, recorded = TokenShards(tmp_path / "out" / folder), artifact["details"]["splits"][split]
        assert recorded["tokens"] == len(shards)
        assert recorded["bytes"] == shards.num_bytes == sum(len(t.encode()) for t in texts(tmp_path / "out", folder))
        assert recorded["documents"] == shards.num_documents
    assert len(list((tmp_path / "out/train").glob("shard-*.bin"))) > 1
    assert not list((tmp_path / "out").glob("building-*"))


def test_text_markdown_and_jsonl_are_read_from_folders_and_sub_folders(tmp_path: Path) -> None:
    put(
        tmp_path / "in",
        {
            "a/readme.md": "# Title\n",
            "a/b/notes": "plain\n",
            "rows.jsonl": '\ufeff{"text": "row one"}\n\n{"text": "row two", "other": 1}\n',
            "z.txt": "\ufefftext",
        },
    )
    artifact = run(tmp_path, {"path": "in"}, heldOutFraction=0.5)
    found = texts(tmp_path / "out", "train") + texts(tmp_path / "out", "held-out")
    assert sorted(found) == ["# Title\n", "plain\n", "row one", "row two", "text"]
    assert artifact["details"]["counts"]["files"] == 4


def test_the_format_and_the_text_field_may_be_given(tmp_path: Path) -> None:
    put(tmp_path / "in", {"rows.log": '{"body": "one"}\n{"body": "two"}\n{"body": "three"}\n{"body": "four"}\n'})
    run(tmp_path, {"path": "in/rows.log", "format": "jsonl", "textField": "body"}, heldOutFraction=0.5)
    assert sorted(texts(tmp_path / "out", "train") + texts(tmp_path / "out", "held-out")) == [
        "four",
        "one",
        "three",
        "two",
    ]


def test_what_is_dropped_and_repaired_is_counted(tmp_path: Path) -> None:
    put(
        tmp_path / "in",
        {
            **MANY,
            "copy-of-3.txt": MANY["d03.txt"],
            "another-copy-of-3.md": MANY["d03.txt"],
            "empty.txt": "",
            "empty.jsonl": "",
            "blank.txt": " \n\t\n",
            "latin-1.txt": "Gruß aus Köln".encode("latin-1"),
            "surrogate.jsonl": '{"text": "half \\ud83d of a parrot"}\n',
        },
    )
    artifact = run(tmp_path, {"path": "in"})
    assert artifact["details"]["counts"] | {"kept": None} == {
        "files": 37,
        "documents": 37,
        "kept": None,
        "dropped": {"empty": 3, "duplicate": 2},
        "repaired": 2,
    }
    assert sum(artifact["details"]["counts"]["kept"].values()) == 32
    assert artifact["metrics"]["documents_repaired"] == 2
    found = texts(tmp_path / "out", "train") + texts(tmp_path / "out", "held-out")
    assert "Gru\ufffd aus K\ufffdln" in found
    assert any(text.startswith("half \ufffd") for text in found)


def test_a_document_that_spells_the_end_of_text_does_not_end(tmp_path: Path) -> None:
    put(tmp_path / "in", {**MANY, "sly.txt": "one <|endoftext|> two"})
    run(tmp_path, {"path": "in"})
    assert "one <|endoftext|> two" in texts(tmp_path / "out", "train") + texts(tmp_path / "out", "held-out")


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("here", "there"):
        put(tmp_path / name / "in", MANY)
        artifact = run(tmp_path / name, {"path": "in"}, {"builtin": "python-docs"}, tokenizer={"vocabSize": 2000})
        digests.append({file: entry["sha256"] for file, entry in artifact["files"].items()})
        for file, digest in digests[-1].items():
            assert hashlib.sha256((tmp_path / name / "out" / file).read_bytes()).hexdigest() == digest
    assert digests[0] == digests[1]
    assert {"tokenizer/tokenizer.json", "train/shard-00000.bin", "held-out/index.json"} <= set(digests[0])


def test_more_data_moves_no_document_to_the_other_side(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    run(tmp_path, {"path": "in"}, out="before")
    put(tmp_path / "in", {f"a{number}.txt": f"more text {number}" for number in range(30)})
    run(tmp_path, {"path": "in"}, out="after")
    for split in ("train", "held-out"):
        assert set(texts(tmp_path / "before", split)) < set(texts(tmp_path / "after", split))


def test_what_an_earlier_attempt_left_half_made_is_replaced(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    put(tmp_path / "out", {"building-1/train/shard-00000.bin": b"half", "train/shard-00099.bin": b"old"})
    run(tmp_path, {"path": "in"}, attempt=2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "artifact.json",
        "held-out",
        "tokenizer",
        "train",
    ]
    assert not (tmp_path / "out/train/shard-00099.bin").exists()


def test_a_sample_of_a_large_corpus_trains_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "SAMPLE_BYTES", 200_000)
    survey = corpus.Survey()
    documents = [corpus.Kept(f"{number} " * 40_000, 0, "train") for number in range(20)]
    survey.num_bytes["train"] = sum(len(document.text) for document in documents)
    size = sum(map(len, corpus.sample(iter(documents), survey)))
    assert 0 < size <= 200_000 + 4 * 65_536
    assert size == sum(map(len, corpus.sample(reversed(documents), survey)))


def test_python_docs_are_at_hand_and_their_baselines_are_sane(tmp_path: Path) -> None:
    artifact = run(tmp_path, {"builtin": "python-docs"}, heldOutFraction=0.05, tokenizer={"vocabSize": 4096})
    details, out = artifact["details"], tmp_path / "out"
    assert details["vocab_size"] == 4096 and details["dtype"] == "uint16"
    assert sum(details["splits"][split]["bytes"] for split in ("train", "heldOut")) > 400_000
    held_out, table = TokenShards(out / "held-out"), token_bytes(out / "tokenizer")
    text = b"".join(table[token] for token in held_out.window(0, len(held_out)))
    assert text.decode() == "".join(texts(out, "held-out"))
    unigram = unigram_bits_per_byte(TokenShards(out / "train"), held_out, details["vocab_size"])
    zipped = zlib_bits_per_byte(held_out, table)
    assert 1.5 < unigram < 4.5
    assert 1.5 < zipped < 4.5


def test_transformers_opens_the_tokenizer(tmp_path: Path) -> None:
    put(tmp_path / "in", MANY)
    run(tmp_path, {"path": "in"})
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out/tokenizer"))
    assert tokenizer.eos_token_id == 0
    assert tokenizer.decode(tokenizer("naïve 🦜\n  text").input_ids) == "naïve 🦜\n  text"


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
        run(tmp_path, *sources, **{name: value for name, value in settings.items() if name != "sources"})
    assert not (tmp_path / "out/artifact.json").exists()


@pytest.mark.parametrize(("bad", "good"), [(0.0001, "at least"), (0.9999, "at most")])
def test_the_fraction_that_the_error_names_does_work(tmp_path: Path, bad: float, good: str) -> None:
    put(tmp_path / "in", MANY)
    with pytest.raises(PermanentError) as refused:
        run(tmp_path, {"path": "in"}, heldOutFraction=bad)
    run(tmp_path, {"path": "in"}, heldOutFraction=float(str(refused.value).split(good)[1].split()[0].strip(",")))


@pytest.mark.parametrize(
    ("name", "message"), [("d03.txt", r"d03\.txt can't be read"), ("sub", r"folder .*/sub can't be")]
)
def test_what_may_not_be_read_is_refused(name: str, message: str) -> None:
    with TemporaryDirectory() as storage, as_an_ordinary_user(Path(storage)):
        unreadable = put(Path(storage, "in"), {**MANY, "sub/a.txt": "text"}) / name
        unreadable.chmod(0)
        with pytest.raises(PermanentError, match=rf"prepare\.sources\[0\]\.path: .*{message}"):
            run(Path(storage), {"path": "in"})
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


def test_a_stop_ends_it_at_once_and_leaves_no_artifact(tmp_path: Path) -> None:
    put(tmp_path / "in", {"rows.jsonl": "".join(f'{{"text": "row {number}"}}\n' for number in range(500_000))})
    reports, to_agent = os.pipe()
    environment = {
        **os.environ,
        "TRAINYARD_JOB": a_job(tmp_path, {"sources": [{"path": "in"}]}).model_dump_json(by_alias=True),
        "TRAINYARD_ATTEMPT": "1",
        "TRAINYARD_REPORT_FD": str(to_agent),
        "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0",
    }
    rank = subprocess.Popen(
        [sys.executable, "-m", "trainyard_trainer.rank"], env=environment, pass_fds=[to_agent], stderr=subprocess.PIPE
    )
    os.close(to_agent)
    try:
        with os.fdopen(reports) as lines:
            assert json.loads(lines.readline())["progress"]["message"].startswith("reading: 1 files")
            rank.send_signal(signal.SIGTERM)
            assert rank.wait(timeout=20) == ExitCode.STOPPED
    finally:
        rank.kill()
        rank.communicate()
    assert list((tmp_path / "out").iterdir()) == []
