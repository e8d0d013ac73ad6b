"""An object store that fails in mid-training, in each of the ways that they do, and one that is of no use from the start."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
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
from warm_ranks import WarmRanks

FAULTS: list[tuple[Fault, Fault]] = [("throttled", "failing"), ("denied", "gone")]
WORDS: dict[Fault, str] = {"denied": "AccessDenied", "throttled": "SlowDown", "failing": "InternalError"}
"""What the status must say of them, where the store says anything."""
SETTINGS: dict[str, Any] = TINY | {"steps": 1_000_000, "checkpoint": {"everySeconds": 1}}


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as server, connected_to(server):
        yield server


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


@contextmanager
def ranks_of(
    server: ObjectStore, job: Job, folder: Path, world_size: int, attempt: int = 1
) -> Iterator[tuple[WarmRanks, FaultyProxy]]:
    """Ranks, and what stands between them and the store."""
    with faulty_proxy(server.endpoint) as proxy:
        scratch = str(folder / "scratch")
        environment = CREDENTIALS | {"AWS_ENDPOINT_URL": proxy.endpoint, "TRAINYARD_SCRATCH": scratch}
        ranks = WarmRanks(job, world_size, attempt, folder=folder, **environment)
        try:
            yield ranks, proxy
        finally:
            for process in ranks.processes:
                process.kill()


def test_training_goes_on_through_all_that_a_store_does_and_stops_only_when_told_to(
    job: Job, server: ObjectStore, tmp_path: Path
) -> None:
    other = job.model_copy(update={"output_uri": f"{job.storage_uri}/other"})
    with ranks_of(server, job, tmp_path / "base", 2) as (ranks, proxy):
        with ranks_of(server, other, tmp_path / "other", 1) as beside:
            for faults in FAULTS:
                outlived(dict(zip(faults, [(ranks, proxy), beside], strict=True)))
        outlives_silence(ranks, proxy)
        for process in ranks.processes:
            process.send_signal(signal.SIGTERM)
        assert ranks.wait() == [ExitCode.STOPPED] * 2, ranks.said()
    assert saved(ranks) == step(ranks)
    metrics = open_storage(job.output_uri).read("metrics.jsonl").splitlines()
    assert {json.loads(line)["step"] for line in metrics} == set(range(1, step(ranks) + 1))

    patient = job.model_copy(update={"settings": SETTINGS | {"checkpoint": {"everySeconds": 1, "maxAgeSeconds": 8}}})
    with ranks_of(server, patient, tmp_path / "patient", 1, attempt=2) as (resumed, proxy):
        eventually(lambda: saved(resumed) > step(ranks), 60, "a checkpoint of another attempt", resumed.said)
        assert [each["resumedStep"] for each in resumed.reports() if "resumedStep" in each] == [step(ranks)]
        proxy.break_down("denied")
        assert resumed.wait() == [ExitCode.PERMANENT], resumed.said()
    assert "pretrain.checkpoint.maxAgeSeconds" in failure(resumed)
    assert "is not saved" in failure(resumed)


def outlived(faults: dict[Fault, tuple[Ranks, FaultyProxy]]) -> None:
    """See that each fault is told, that training goes on beside it, and that saving does after it; all at a time, for it
    takes some ten seconds until a store is given up.
    """
    for fault, (ranks, proxy) in faults.items():
        eventually(lambda ranks=ranks: saved(ranks), 60, f"a checkpoint before {fault}", ranks.said)
        proxy.break_down(fault)
    for fault, (ranks, proxy) in faults.items():
        said = eventually(lambda ranks=ranks: trouble(ranks, "checkpoints: rank"), 90, f"word of {fault}", ranks.said)
        assert WORDS.get(fault, "") in said
        then = step(ranks)
        eventually(lambda ranks=ranks, then=then: step(ranks) > then + 2, 30, f"training beside {fault}", ranks.said)
        proxy.mend()
        well = partial(saved_since, ranks, then)
        eventually(well, 90, f"a checkpoint after {fault}", ranks.said)


def outlives_silence(ranks: Ranks, proxy: FaultyProxy) -> None:
    """The same of a store that does not answer; not until it is given up, which another test has in less than half a minute."""
    proxy.break_down("silent")
    eventually(lambda: trouble(ranks, "storage is still busy"), 30, "word of a silent store", ranks.said)
    then = step(ranks)
    eventually(lambda: step(ranks) > then + 2, 30, "training beside a silent store", ranks.said)
    proxy.mend()
    eventually(partial(saved_since, ranks, then), 60, "a checkpoint after silence", ranks.said)


USELESS: dict[str, tuple[Fault | None, str, int, str]] = {
    "a bucket that is not there": (None, "nobodys", ExitCode.PERMANENT, "create the bucket, or correct its name"),
    "credentials that are refused": ("denied", BUCKET, ExitCode.PERMANENT, "correct the credentials"),
    "a store that fails": ("gone", BUCKET, ExitCode.RETRY, "storage failed: "),
}


def test_a_store_of_no_use_is_named_before_anything_is_trained(server: ObjectStore, tmp_path: Path) -> None:
    with ExitStack() as stack:
        started = {}
        for name, (fault, bucket, _, _) in USELESS.items():
            useless = on_s3("prepare", {"sources": [{"path": "texts"}]}, bucket)
            started[name], proxy = stack.enter_context(ranks_of(server, useless, tmp_path / name, 1))
            if fault:
                proxy.break_down(fault)
        for name, (_, bucket, code, words) in USELESS.items():
            ranks = started[name]
            assert ranks.wait() == [code], ranks.said()
            assert f"s3://{bucket}/runs/base" in failure(ranks), name
            assert words in failure(ranks), name
            if code == ExitCode.PERMANENT:
                assert failure(ranks).startswith("spec.storage: "), name


def trouble(ranks: Ranks, words: str = "") -> str:
    """What is wrong with saving, as the status has it now, if these words are in it."""
    said = next((str(each.get("message", "")) for each in reversed(told(ranks))), "")
    return said if words in said else ""


def saved_since(ranks: Ranks, step: int) -> bool:
    """Whether a later step is saved and all is well."""
    return saved(ranks) > step and not trouble(ranks)


def told(ranks: Ranks) -> list[dict[str, Any]]:
    return [each["progress"] for each in ranks.reports() if "progress" in each]


def step(ranks: Ranks) -> int:
    return max((each.get("step", 0) for each in told(ranks)), default=0)


def saved(ranks: Ranks) -> int:
    return max((each["checkpoint"]["step"] for each in ranks.reports() if "checkpoint" in each), default=0)


def failure(ranks: Ranks) -> str:
    return str(next(each["failure"]["message"] for each in ranks.reports() if "failure" in each))
