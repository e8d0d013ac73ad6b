"""What `trainyard run` makes of a run whose name it has seen before: go on, refuse, or begin anew."""

import asyncio
import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from trainyard_api.in_flight import fixed_differences
from trainyard_api.names import API_VERSION, KIND
from trainyard_api.run import TrainingRun
from trainyard_api.status import Phase, Reason, Status
from trainyard_api.storage import Storage, open_storage

from ..cluster import processes
from ..cluster.home import Home
from ..cluster.protocol import Manifest
from ..decide.active import clocked
from ..decide.observation import parse_time
from .inputs import InputError


def take_up(home: Home, run: TrainingRun, *, fresh: bool, say: Callable[[str], None]) -> Manifest:
    """The run to drive: a new one, or the one of that name as it was left, ready to go on from its last checkpoint."""
    key = run.key
    known = home.read_run(*key)
    if fresh:
        discard(home, run, say, artifacts_too=True)
        known = None
    if known is None:
        return new_run(run)
    before = TrainingRun.read_stored({**known, "status": None}).spec
    if differing := fixed_differences(run.spec, before):
        raise InputError(
            f"metadata.name: a run {run.metadata.name} with another spec ({', '.join(differing)}) is in "
            f"{home.folder(*key)}; give this one another name, or discard that one, with all that it made, by --fresh"
        )
    generation = known["metadata"].get("generation", 1) + (run.spec != before)
    return {
        **known,
        "metadata": {**known["metadata"], "generation": generation},
        "spec": run.spec.wire(),
        "status": resumed(Status.read_stored(known.get("status") or {})).wire(),
    }


def new_run(run: TrainingRun) -> Manifest:
    """The object as an API server would make it of what was applied."""
    namespace, name = run.key
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        },
        "spec": run.spec.wire(),
        "status": {},
    }


def resumed(status: Status) -> Status:
    """The status of a run that was stopped or has failed, ready to go on; one that succeeded stays as it is.

    A new attempt of the same stage: whatever the old one still does, its number fences it off. Failures of before were
    looked at by the user, so they are forgiven.
    """
    if status.phase == Phase.SUCCEEDED or status.stage is None:
        return Status() if status.stage is None else status
    ready = status.model_copy(
        update={
            "phase": Phase.PENDING,
            "reason": Reason.STAGE_PENDING,
            "message": "",
            "attempt": status.attempt + 1,
            "placed_time": None,
            "ready_time": None,
            "end_time": None,
            "waiting": None,
            "workers": status.workers.model_copy(update={"ready": 0}),
            "failures": (),
            "conditions": (),
            "stages": tuple(
                stage.model_copy(update={"phase": "Running", "end_time": None}) if stage.name == status.stage else stage
                for stage in status.stages
            ),
        }
    )
    return clocked(ready, _last_sign_of_life(status))


def _last_sign_of_life(status: Status) -> datetime:
    """When the run was last seen to do something, by a process that may have been killed since."""
    known = (status.active_since, status.progress.heartbeat_time if status.progress else None)
    return max((parse_time(time) for time in known if time), default=datetime.now(UTC))


def discard(home: Home, run: TrainingRun, say: Callable[[str], None], *, artifacts_too: bool) -> None:
    """Delete a run's status and logs, and its artifacts if asked to, after saying so. Its lock stays: we hold it."""
    namespace, name = run.key
    if known := home.read_run(namespace, name):
        asyncio.run(processes.end(f"{known['metadata']['uid']}/"))
    folder = home.folder(namespace, name)
    made = artifacts(home, run)
    if artifacts_too and made.names():
        say(f"deleting {made.uri.removeprefix('file://')}")
        made.remove("")
    for doomed in (each for each in folder.glob("*") if each.name != "lock"):
        say(f"deleting {doomed}")
        shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()


def artifacts(home: Home, run: TrainingRun) -> Storage:
    """The place of all artifacts of a run."""
    namespace, name = run.key
    try:
        return open_storage(f"{home.storage_uri(run.spec.wire())}/{namespace}/{name}")
    except ValueError as error:
        raise InputError(f"spec.storage.uri: {error}") from None


def made_by(home: Home, run: TrainingRun) -> Path:
    """The folder that holds all artifacts of a run."""
    namespace, name = run.key
    return home.storage(run.spec.wire()) / namespace / name
