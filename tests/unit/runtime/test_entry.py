"""The operator's command line: what it takes from flags and environment, and what it says of mistakes."""

from pathlib import Path

import pytest
from trainyard_operator.runtime.entry import Options, read_options

KEY = b"0123456789abcdef"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    return path


def test_flags_are_taken_from_the_environment(key_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRAINYARD_TRAINER_IMAGE", "registry/trainer:1")
    monkeypatch.setenv("TRAINYARD_KEY_FILE", str(key_file))
    monkeypatch.setenv("TRAINYARD_AGENT_TLS", "on")
    monkeypatch.setenv("TRAINYARD_WATCH_NAMESPACES", "team-a, team-b")
    monkeypatch.setenv("TRAINYARD_LEASE_NAMESPACE", "system")
    monkeypatch.setenv("POD_NAME", "trainyard-1")
    assert read_options([]) == Options(
        trainer_image="registry/trainer:1",
        key=KEY,
        agent_tls=True,
        namespaces=("team-a", "team-b"),
        lease_namespace="system",
        lease_name="trainyard",
        deployment="",
        identity="trainyard-1",
        port=8080,
        log_level="info",
    )


def test_no_namespaces_are_all_namespaces(key_file: Path):
    assert read_options(["--trainer-image", "t", "--key-file", str(key_file)]).namespaces == ()


def test_outside_a_pod_no_two_processes_have_the_same_name(key_file: Path):
    flags = ["--trainer-image", "t", "--key-file", str(key_file)]
    assert read_options(flags).identity != read_options(flags).identity


MISTAKES = {
    "no image": ({"--trainer-image": ""}, "--trainer-image is empty"),
    "no key": ({"--key-file": ""}, "--key-file must name a file"),
    "a key file that isn't there": ({"--key-file": "/not/there"}, "--key-file can't be read"),
    "a key that can be guessed": ({"--key-file": "/dev/null"}, "at least 16 bytes"),
    "TLS that is neither on nor off": ({"--agent-tls": "true"}, "--agent-tls is 'true'; use on or off"),
    "a port that is no number": ({"--port": "http"}, "--port is 'http'; use a number"),
    "an unknown log level": ({"--log-level": "loud"}, "use debug, info, warning or error"),
}


@pytest.mark.parametrize(("wrong", "says"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(wrong: dict[str, str], says: str, key_file: Path, capsys: pytest.CaptureFixture[str]):
    flags = {"--trainer-image": "t", "--key-file": str(key_file)} | wrong
    with pytest.raises(SystemExit) as ended:
        read_options([part for flag in flags.items() for part in flag])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
