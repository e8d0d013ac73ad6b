"""`trainyard run` with storage in S3, from text in the bucket to an exported model, stopped and resumed on the way."""

import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conditions import eventually
from local_runs import PRETRAIN, running, stored, trainyard, write_run
from object_store import BUCKET, ObjectStore, connected_to, object_store
from trainyard_api.storage import Storage, open_storage

WORDS = ["text", "that", "lies", "in", "a", "bucket", "and", "is", "read", "from", "there", "again"]
ROWS = [{"text": " ".join(WORDS[(i * k) % len(WORDS)] for k in range(200))} for i in range(1, 60)]
STAGES = [
    {
        "name": "corpus",
        "prepare": {
            "sources": [{"path": "texts"}, {"path": f"s3://{BUCKET}/rows.jsonl"}],
            "tokenizer": {"vocabSize": 300},
        },
    },
    {"name": "base", "pretrain": PRETRAIN},
    {"name": "report", "workers": {"count": 1}, "evaluate": {"model": "base", "data": "corpus", "sequenceLength": 64}},
    {"name": "model", "export": {"model": "base"}},
]


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server, connected_to(server):
        yield server


@pytest.fixture(scope="module")
def folder(server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in mid-training and resumed."""
    folder = tmp_path_factory.mktemp("run")
    bucket = open_storage(f"s3://{BUCKET}")
    bucket.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode())
    bucket.write("runs/texts/deep/one.txt", b"one document in a folder of the bucket " * 50)
    bucket.write("runs/texts/two.md", b"another one, somewhat less deep " * 50)
    bucket.write("runs/texts/", b"")  # as consoles make a folder
    write_run(folder, STAGES, storage={"uri": f"s3://{BUCKET}/runs"})
    with running(folder) as process:
        eventually(saved, 120, "a checkpoint", lambda: said(folder))
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert stored(folder)["status"]["stage"] == "base", said(folder)
    done = trainyard(folder, "run", "run.yaml", "--plain")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def made() -> Storage:
    return open_storage(f"s3://{BUCKET}/runs/default/tiny")


def saved() -> bool:
    """Whether there is a checkpoint."""
    checkpoints = made().at("base/checkpoints")
    return any("manifest.json" in checkpoints.names(name) for name in checkpoints.names() if name != "attempts")


def said(folder: Path) -> str:
    return (folder / "output.txt").read_text() + trainyard(folder, "logs", "tiny").stdout[-6000:]


def test_every_artifact_is_in_the_bucket_with_the_digests_that_it_names(folder: Path) -> None:
    for stage in STAGES:
        place = made().at(str(stage["name"]))
        files = json.loads(place.read("artifact.json"))["files"]
        assert files
        for path, known in files.items():
            assert hashlib.sha256(place.read(path)).hexdigest() == known["sha256"], path
    counts = json.loads(made().read("corpus/artifact.json"))["details"]["counts"]
    assert (counts["files"], counts["documents"]) == (3, 2 + len(ROWS))


def test_a_run_that_resumed_has_a_line_for_each_step(folder: Path) -> None:
    rows = [json.loads(line) for line in made().read("base/metrics.jsonl").splitlines()]
    assert {row["step"] for row in rows} == set(range(1, PRETRAIN["steps"] + 1))
    assert [row["attempt"] for row in rows] == sorted(row["attempt"] for row in rows)
    assert len({row["attempt"] for row in rows}) == 2
    assert rows[-1]["held_out_loss"] > 0


def test_the_commands_read_the_bucket_and_nothing_of_the_run_stays_in_scratch(folder: Path) -> None:
    plot = trainyard(folder, "plot", "tiny")
    assert plot.returncode == 0, plot.stderr
    assert (folder / "tiny.png").stat().st_size > 10_000
    assert "Succeeded" in trainyard(folder, "get", "tiny").stdout
    assert f"[agent] checkpoint step={PRETRAIN['steps']}" in trainyard(folder, "logs", "tiny").stdout
    assert not list((folder / ".trainyard").glob("runs/*/*/scratch/*"))


def test_a_bucket_that_is_not_there_is_told_before_anything_starts(server: ObjectStore, tmp_path: Path) -> None:
    write_run(tmp_path, STAGES, storage={"uri": "s3://nobodys/runs"})
    done = trainyard(tmp_path, "run", "run.yaml")
    assert done.returncode == 2
    assert "spec.storage.uri: s3://nobodys/runs can't be written" in done.stderr
    assert "create the bucket, or correct its name" in done.stderr


def test_fresh_deletes_what_the_run_has_made_and_nothing_else(folder: Path) -> None:
    from trainyard_operator.cli.inputs import read_run_file
    from trainyard_operator.cli.taking_up import discard
    from trainyard_operator.cluster.home import Home

    lines: list[str] = []
    run = read_run_file(folder / "run.yaml", None)
    discard(Home(folder / ".trainyard"), run, lines.append, artifacts_too=True)
    assert lines[0] == f"deleting {made().uri}"
    assert made().names() == []
    assert open_storage(f"s3://{BUCKET}").names("runs") == ["texts"]
