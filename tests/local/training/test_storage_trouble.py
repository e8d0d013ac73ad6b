"""An object store that fails in mid-training, in each of the ways that they do, and one that is of no use from the start."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conditions import eventually
from faulty_proxy import Fault, FaultyProxy, faulty_proxy
from object_store import BUCKET, CREDENTIALS, ObjectStore, connected_to, object_store
from training import TINY, Ranks, a_job
from trainyard_api.exit_codes import ExitCode
from trainyard_api.protocol import Job
from trainyard_api.storage import open_storage

FAULTS: dict[Fault, str] = {
    "denied": "AccessDenied",
    "throttled": "SlowDown",
    "failing": "InternalError",
    "gone": "",
    "silent": "",
}
"""Each with what the status must say of it, where the store says anything."""
SETTINGS: dict[str, Any] = TINY | {"steps": 1_000_000, "checkpoint": {"everySeconds": 1}}


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server, connected_to(server):
        yield server


@pytest.fixture(scope="module")
def proxy(server: ObjectStore) -> Iterator[FaultyProxy]:
    with faulty_proxy(server.endpoint) as proxy:
        yield proxy


def on_s3(kind: str, settings: dict[str, Any], bucket: str = BUCKET, **inputs: str) -> Job:
    job = a_job(kind, Path("/runs/base"), settings, {})
    place = f"s3://{bucket}/runs"
    return job.model_copy(
        update={
            "storage_uri": place,
            "output_uri": f"{place}/base",
            "inputs": {field: f"{place}/{name}" for field, name in inputs.items()},
        }
    )


@pytest.fixture
def job(corpus: Path, server: ObjectStore) -> Job:
    """Training on a corpus that lies in the bucket."""
    storage = open_storage(f"s3://{BUCKET}/runs/corpus")
    for file in corpus.rglob("*"):
        if file.is_file():
            storage.write(file.relative_to(corpus).as_posix(), file.read_bytes())
    return on_s3("pretrain", SETTINGS, data="corpus")


def ranks_of(job: Job, folder: Path, proxy: FaultyProxy, world_size: int = 2, attempt: int = 1) -> Ranks:
    scratch = str(folder / "scratch")
    environment = CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.endpoint, "TRAINYARD_SCRATCH": scratch}
    return Ranks(job, world_size, attempt, folder=folder, **environment)


def test_training_goes_on_through_all_that_a_store_does_and_stops_only_when_told_to(
    job: Job, proxy: FaultyProxy, tmp_path: Path
) -> None:
    ranks = ranks_of(job, tmp_path, proxy)
    eventually(lambda: saved(ranks), 150, "a checkpoint", ranks.said)
    for fault, words in FAULTS.items():
        proxy.break_down(fault)
        then = step(ranks)
        said = eventually(lambda then=then: failed_save(ranks, then), 90, f"word of it: {fault}", ranks.said)
        assert words in said
        then = step(ranks)
        eventually(lambda then=then: step(ranks) > then + 2, 30, f"training: {fault}", ranks.said)
        proxy.mend()
        eventually(lambda then=then: saved(ranks) > then, 90, f"a checkpoint after {fault}", ranks.said)
    eventually(lambda: trouble(ranks) == "", 30, "a status without trouble", ranks.said)
    for process in ranks.processes:
        process.send_signal(signal.SIGTERM)
    assert ranks.wait() == [ExitCode.STOPPED] * 2, ranks.said()
    assert saved(ranks) == step(ranks)
    metrics = open_storage(f"{job.output_uri}").read("metrics.jsonl").splitlines()
    assert {json.loads(line)["step"] for line in metrics} == set(range(1, step(ranks) + 1))

    patient = job.model_copy(update={"settings": SETTINGS | {"checkpoint": {"everySeconds": 1, "maxAgeSeconds": 8}}})
    (tmp_path / "second").mkdir()
    resumed = ranks_of(patient, tmp_path / "second", proxy, world_size=1, attempt=2)
    eventually(lambda: saved(resumed) > step(ranks), 150, "a checkpoint of another attempt", resumed.said)
    assert [each["resumedStep"] for each in resumed.reports() if "resumedStep" in each] == [step(ranks)]
    proxy.break_down("denied")
    assert resumed.wait() == [ExitCode.PERMANENT], resumed.said()
    proxy.mend()
    assert "pretrain.checkpoint.maxAgeSeconds" in failure(resumed)
    assert "is not saved" in failure(resumed)


USELESS: dict[str, tuple[Fault | None, str, int, str]] = {
    "a bucket that is not there": (None, "nobodys", ExitCode.PERMANENT, "create the bucket, or correct its name"),
    "credentials that are refused": ("denied", BUCKET, ExitCode.PERMANENT, "correct the credentials"),
    "a store that fails": ("gone", BUCKET, ExitCode.RETRY, "storage failed: "),
}


@pytest.mark.parametrize(("fault", "bucket", "code", "words"), USELESS.values(), ids=USELESS.keys())
def test_a_store_of_no_use_is_named_before_anything_is_trained(
    server: ObjectStore, proxy: FaultyProxy, tmp_path: Path, fault: Fault | None, bucket: str, code: int, words: str
) -> None:
    if fault:
        proxy.break_down(fault)
    ranks = ranks_of(on_s3("prepare", {"sources": [{"path": "texts"}]}, bucket), tmp_path, proxy, world_size=1)
    assert ranks.wait() == [code], ranks.said()
    proxy.mend()
    assert f"s3://{bucket}/runs/base" in failure(ranks)
    assert words in failure(ranks)
    if code == ExitCode.PERMANENT:
        assert failure(ranks).startswith("spec.storage: ")


def trouble(ranks: Ranks) -> str:
    """What is wrong with saving, as the status has it now."""
    return next((each.get("message", "") for each in reversed(told(ranks))), "")


def failed_save(ranks: Ranks, since: int) -> str:
    """What the status said of a save that failed after that step; nothing of one that was merely skipped."""
    said = [each.get("message", "") for each in told(ranks) if each.get("step", 0) > since]
    return next((each for each in said if "is not saved: checkpoints: rank" in each), "")


def told(ranks: Ranks) -> list[dict[str, Any]]:
    return [each["progress"] for each in ranks.reports() if "progress" in each]


def step(ranks: Ranks) -> int:
    return max((each.get("step", 0) for each in told(ranks)), default=0)


def saved(ranks: Ranks) -> int:
    return max((each["checkpoint"]["step"] for each in ranks.reports() if "checkpoint" in each), default=0)


def failure(ranks: Ranks) -> str:
    return str(next(each["failure"]["message"] for each in ranks.reports() if "failure" in each))
