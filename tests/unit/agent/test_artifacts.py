"""Artifacts on a real file system: whole or absent, the same for ever, with their lineage."""

import hashlib
import json
from dataclasses import replace

import pytest
from trainyard_api.protocol import Job
from trainyard_trainer.artifacts import finished_artifact, read_artifact, write_artifact
from trainyard_trainer.errors import PermanentError
from trainyard_trainer.group import Group


def a_group(storage, stage="corpus", kind="prepare", inputs=(), **settings):
    """Rank 0 of a group of one."""
    folders = {field: storage / of for field, of in inputs}
    job = Job(
        namespace="team",
        run="tiny",
        run_uid="1-2-3",
        stage=stage,
        kind=kind,
        settings=settings,
        seed=1,
        storage_uri=f"file://{storage}",
        output_uri=f"file://{storage / stage}",
        inputs={field: f"file://{folder}" for field, folder in folders.items()},
    )
    (storage / stage).mkdir(exist_ok=True)
    return Group(job, attempt=1, rank=0, world_size=1, local_rank=0, output=storage / stage, inputs=folders)


def commit(group, **metrics):
    """An artifact of one file and one folder."""
    (group.output / "data").mkdir(exist_ok=True)
    (group.output / "data/shard").write_bytes(b"tokens")
    (group.output / "report.json").write_bytes(b"{}")
    return write_artifact(group, metrics=metrics, files=["data", "report.json"], details={"dtype": "uint16"})


def test_an_artifact_names_its_files_with_their_digests_and_its_inputs_with_theirs(tmp_path):
    corpus = commit(a_group(tmp_path), documents=3.0)
    model = a_group(tmp_path, "base", "pretrain", inputs=[("data", "corpus")])
    commit(model)
    content = read_artifact(tmp_path / "base", "pretrain")
    assert content["inputs"]["data"]["digest"] == corpus.digest
    assert content["files"] == {
        "data/shard": {"bytes": 6, "sha256": hashlib.sha256(b"tokens").hexdigest()},
        "report.json": {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
    }
    assert content["details"] == {"dtype": "uint16"}
    assert corpus.digest == hashlib.sha256((tmp_path / "corpus/artifact.json").read_bytes()).hexdigest()
    assert corpus.metrics == {"documents": 3.0}


def test_a_later_attempt_at_the_same_finds_it_done_and_changes_nothing(tmp_path):
    group = a_group(tmp_path, vocabSize=300)
    assert finished_artifact(group) is None
    first = commit(group, documents=3.0)
    later = replace(group, attempt=2)
    assert finished_artifact(later) == first
    assert commit(later, documents=4.0) == first
    assert read_artifact(group.output, "prepare")["attempt"] == 1


@pytest.mark.parametrize(
    "change", [{"settings": {"vocabSize": 400}}, {"seed": 2}], ids=["other settings", "another seed"]
)
def test_a_different_job_never_takes_it_for_its_own(tmp_path, change):
    group = a_group(tmp_path, vocabSize=300)
    commit(group)
    with pytest.raises(PermanentError, match=r"other settings or inputs.*another name, or delete"):
        finished_artifact(replace(group, job=group.job.model_copy(update=change)))


def test_a_changed_input_makes_a_different_job(tmp_path):
    commit(a_group(tmp_path))
    model = a_group(tmp_path, "base", "pretrain", inputs=[("data", "corpus")])
    commit(model)
    artifact = tmp_path / "corpus/artifact.json"
    artifact.write_text(json.dumps(json.loads(artifact.read_bytes()) | {"attempt": 9}))
    with pytest.raises(PermanentError, match="other settings or inputs"):
        finished_artifact(model)


BROKEN = {
    "nothing is there": (None, "missing"),
    "it isn't JSON": ("{", "not JSON"),
    "it is of another kind": ('{"kind": "export"}', "kind: export where prepare is needed"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_an_input_that_is_no_good_is_a_permanent_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "artifact.json").write_text(content)
    with pytest.raises(PermanentError, match=message):
        read_artifact(tmp_path, "prepare")


def test_a_metric_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(PermanentError, match="metric perplexity is inf"):
        commit(a_group(tmp_path), perplexity=float("inf"))
    assert not (tmp_path / "corpus/artifact.json").exists()
