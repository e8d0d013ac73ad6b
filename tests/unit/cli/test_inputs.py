"""What is said of input that can't be run: every mistake with its field and remedy, before anything starts."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from trainyard_operator.cli.inputs import InputError, check_storage, read_run_file
from trainyard_operator.cluster.home import Home


def a_run(**spec: Any) -> dict[str, Any]:
    """A valid run, with parts of its spec replaced."""
    stages = [
        {"name": "corpus", "prepare": {"sources": [{"builtin": "python-docs"}]}},
        {"name": "base", "pretrain": {"data": "corpus", "model": {"type": "llama"}, "steps": 10}},
    ]
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "tiny"},
        "spec": {"stages": stages, **spec},
    }


def pretrain(**settings: Any) -> dict[str, Any]:
    """The valid run with parts of its pretrain stage replaced."""
    run = a_run()
    run["spec"]["stages"][1]["pretrain"] |= settings
    return run


WRONG_SPECS = {
    "an unknown field": (a_run(stagess=[]), ["spec.stagess: unknown field; remove it or correct its spelling"]),
    "a wrong type": (pretrain(steps="ten"), ["spec.stages[1].pretrain.steps: Input should be a valid integer"]),
    "a batch that is not divisible": (
        pretrain(globalBatch=30) | {"spec": {**pretrain(globalBatch=30)["spec"], "workers": {"count": 4}}},
        ["spec.stages[1].pretrain.globalBatch: 30 is not divisible by 4 ranks × microBatch 4; use 16 or 32"],
    ),
    "an unknown stage reference": (
        pretrain(data="corpse"),
        ['spec.stages[1].pretrain.data: corpse is not an earlier prepare stage; use one of ["corpus"]'],
    ),
    "a field of a template that reaches out of the container": (
        a_run(template={"spec": {"hostNetwork": True}}),
        ["hostNetwork"],
    ),
    "two mistakes at once": (
        a_run(stagess=[], image=7),
        ["spec.image: Input should be a valid string", "spec.stagess: unknown field"],
    ),
}


@pytest.mark.parametrize(("run", "expected"), WRONG_SPECS.values(), ids=WRONG_SPECS)
def test_mistakes_of_a_spec_name_field_and_remedy(run: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    with pytest.raises(InputError) as caught:
        read_run_file(file, None)
    assert len(caught.value.mistakes) == len(expected)
    for text, mistake in zip(expected, caught.value.mistakes, strict=True):
        assert text in mistake


WRONG_FILES = {
    "an empty file": (b"", "holds 0 documents"),
    "several documents": (b"a: 1\n---\na: 2\n", "holds 2 documents; give a file with one TrainingRun"),
    "no object": (b"- 1\n", "holds no object"),
    "YAML that is broken says the line": (b"a: 1\nb: [1, 2\nc: 3\n", "run.yaml:3: not YAML"),
    "a binary file": (b"\xff\x00\xfe", "save it as UTF-8 text"),
}


@pytest.mark.parametrize(("content", "expected"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_that_holds_no_run(content: bytes, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=expected):
        read_run_file(file, None)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: No such file or directory; give the path of a YAML file"):
        read_run_file(tmp_path / "none.yaml", None)


def test_the_namespace_of_the_command_line_must_not_contradict_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(a_run() | {"metadata": {"name": "tiny", "namespace": "team"}}))
    assert read_run_file(file, "team").key == read_run_file(file, None).key == ("team", "tiny")
    with pytest.raises(InputError, match=r"metadata.namespace: team, but --namespace says other"):
        read_run_file(file, "other")


def test_storage_that_cannot_be_written_names_its_field(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, where a folder must be")
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(a_run(storage={"uri": f"file://{tmp_path}/taken/runs"})))
    with pytest.raises(InputError) as caught:
        check_storage(Home(tmp_path / "home"), read_run_file(file, None))
    [mistake] = caught.value.mistakes
    assert mistake.startswith(f"spec.storage.uri: {tmp_path}/taken/runs can't be written")
    assert mistake.endswith("name a folder that you own, or set claimName")
    assert os.listdir(tmp_path / "home") == []
