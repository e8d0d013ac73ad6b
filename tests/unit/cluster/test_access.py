"""The way to the API server that a kubeconfig shows, or what is wrong with it, in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from trainyard_operator.cli.life_cycle import suspend_command
from trainyard_operator.cli.main import read_options
from trainyard_operator.cluster.access import AccessError, find_connection

GOOD: dict[str, Any] = {
    "current-context": "t",
    "contexts": [{"name": "t", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://cluster"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
}
WRONG = {
    "a context that isn't there": (GOOD | {"current-context": "x"}, "names 'x' and does not have it"),
    "no current context": (GOOD | {"current-context": None}, "`kubectl config use-context` sets one"),
    "a user that isn't there": (GOOD | {"users": []}, "names 'u' and does not have it"),
    "something else": (["a list"], "no kubeconfig; set it to one"),
    "no YAML": ("a: b: c", "no kubeconfig; set it to one"),
    "a certificate that isn't there": (
        GOOD | {"clusters": [{"name": "c", "cluster": {"server": "https://c", "certificate-authority": "/not/there"}}]},
        "/not/there: can't be read; correct the kubeconfig",
    ),
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What KUBECONFIG names."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


def test_the_current_context_is_taken(file: Path) -> None:
    file.write_text(json.dumps(GOOD))
    assert (find_connection().server, find_connection().default_namespace) == ("https://cluster", "team")


@pytest.mark.parametrize(("content", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said(content: Any, says: str, file: Path) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(AccessError, match=says):
        find_connection()


def test_a_verb_says_in_one_line_which_file_is_missing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert suspend_command(read_options(["suspend", "tiny", "--home", str(file.parent)])) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{file}: No such file or directory; set KUBECONFIG to a file that can be read")
