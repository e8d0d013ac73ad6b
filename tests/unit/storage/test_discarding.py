"""What the pod does that deletes all that a run has made."""

from pathlib import Path

import pytest
from trainyard_api.exit_codes import ExitCode
from trainyard_trainer.main import main


def test_all_of_a_run_is_deleted_and_nothing_beside_it(tmp_path: Path) -> None:
    for file in ("team/tiny/base/checkpoints/step-1/manifest.json", "team/tiny/.hidden", "team/tiny-2/artifact.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert main(["discard", f"file://{tmp_path}/team/tiny"]) == ExitCode.DONE
    assert [each.name for each in (tmp_path / "team").iterdir()] == ["tiny-2"]
    assert main(["discard", f"file://{tmp_path}/team/tiny"]) == ExitCode.DONE


def test_what_can_not_be_deleted_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["discard", "file:///proc/self/ns"]) == ExitCode.RETRY
    assert "file:///proc/self/ns: " in capsys.readouterr().err
