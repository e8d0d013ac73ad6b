"""What a second `trainyard run` of a name makes of the first."""

from pathlib import Path
from typing import Any

import pytest
from trainyard_api.run import TrainingRun
from trainyard_api.status import Failure, Phase, Progress, Reason, StageStatus, Status
from trainyard_operator.cli.inputs import InputError
from trainyard_operator.cli.taking_up import made_by, resumed, take_up
from trainyard_operator.cluster.home import Home


def a_run(steps: int = 10, **fields: Any) -> TrainingRun:
    """A run of two stages."""
    stages = [
        {"name": "corpus", "prepare": {"sources": [{"builtin": "python-docs"}]}},
        {"name": "base", "pretrain": {"data": "corpus", "model": {"type": "llama"}, "steps": steps}},
    ]
    spec = {"storage": {"claimName": "training"}, "stages": stages, **fields}
    api = {"apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingRun"}
    return TrainingRun.read({**api, "metadata": {"name": "tiny"}, "spec": spec})


def test_a_new_run_has_an_identity_and_no_status(tmp_path: Path) -> None:
    made = take_up(Home(tmp_path), a_run(), fresh=False, say=print)
    assert made["metadata"]["uid"]
    assert made["status"] == {}
    assert TrainingRun.read_stored(made).spec == a_run().spec


def test_the_same_run_again_goes_on_under_its_uid_and_a_new_attempt(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = take_up(home, a_run(), fresh=False, say=print)
    home.write_run({**first, "status": Status(phase=Phase.RUNNING, stage="base", attempt=3).wire()})
    again = take_up(home, a_run(), fresh=False, say=print)
    assert again["metadata"]["uid"] == first["metadata"]["uid"]
    assert (again["status"]["phase"], again["status"]["attempt"]) == ("Pending", 4)


def test_another_spec_under_the_same_name_is_refused_with_the_remedy(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write_run(take_up(home, a_run(), fresh=False, say=print))
    with pytest.raises(InputError, match=r"metadata.name: .* another name, or discard that one, .* by --fresh"):
        take_up(home, a_run(steps=20), fresh=False, say=print)


def test_what_may_change_in_flight_may_change_between_two_commands(tmp_path: Path) -> None:
    home, changed = Home(tmp_path), {"suspend": True, "activeDeadlineSeconds": 60, "recovery": {"maxFailures": 1}}
    first = take_up(home, a_run(), fresh=False, say=print)
    home.write_run(first)
    again = take_up(home, a_run(**changed), fresh=False, say=print)
    assert again["spec"]["suspend"] is True
    assert (first["metadata"]["generation"], again["metadata"]["generation"]) == (1, 2)


def test_a_run_whose_process_was_killed_has_run_until_its_last_sign_of_life() -> None:
    progress = Progress(heartbeat_time="2026-11-24T12:00:40.000Z")
    status = Status(
        phase=Phase.RUNNING,
        stage="base",
        attempt=2,
        active_seconds=10,
        active_since="2026-11-24T12:00:00.000Z",
        progress=progress,
    )
    ready = resumed(status)
    assert (ready.active_seconds, ready.active_since) == (50.0, None)


def test_fresh_says_what_it_deletes_and_deletes_status_logs_and_artifacts_but_not_the_lock(tmp_path: Path) -> None:
    home, said = Home(tmp_path), list[str]()
    home.write_run(take_up(home, a_run(), fresh=False, say=print))
    folder = home.folder("default", "tiny")
    made = made_by(home, a_run())
    for file in (folder / "logs" / "x.log", folder / "lock", made / "base" / "artifact.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    new = take_up(home, a_run(steps=20), fresh=True, say=said.append)
    assert new["status"] == {}
    assert sorted(said) == sorted(f"deleting {each}" for each in (made, folder / "run.json", folder / "logs"))
    assert [each.name for each in folder.iterdir()] == ["lock"]
    assert not made.exists()


def test_a_failed_run_is_forgiven_and_its_failed_stage_begins_again() -> None:
    stages = (StageStatus(name="corpus", phase="Succeeded"), StageStatus(name="base", phase="Failed", end_time="then"))
    failed = Status(
        phase=Phase.FAILED,
        reason=Reason.TOO_MANY_FAILURES,
        message="11 failures",
        stage="base",
        attempt=12,
        end_time="then",
        failures=(Failure(time="then", cause=Reason.PROCESS_FAILED, stage="base"),),
        stages=stages,
    )
    ready = resumed(failed)
    assert (ready.phase, ready.reason, ready.message) == (Phase.PENDING, Reason.STAGE_PENDING, "")
    assert (ready.attempt, ready.end_time, ready.failures) == (13, None, ())
    assert [(stage.phase, stage.end_time) for stage in ready.stages] == [("Succeeded", None), ("Running", None)]


def test_a_run_that_failed_before_its_first_stage_begins_anew() -> None:
    assert resumed(Status(phase=Phase.FAILED, reason=Reason.INVALID_SPEC)) == Status()


def test_a_run_that_succeeded_stays_as_it_is() -> None:
    done = Status(phase=Phase.SUCCEEDED, reason=Reason.COMPLETED, stage="base", attempt=2)
    assert resumed(done) == done
