"""How long a user waits: from `kubectl apply` to the first optimizer step, and from a pod's deletion to the first new one.

On the cluster of `make kind-up`, four workers over two nodes. The peer is the floor that Kubernetes itself sets: an indexed
Job of the same image, as many pods, that only import torch, DeepSpeed and transformers; its time ends when all have. A ratio
near 1 says that beyond starting processes the operator, the gang's barrier and the resume cost little. Times are the pods'
own: a line of metrics.jsonl for each step, a file for each import.
"""

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from conditions import eventually
from kind.cluster import Namespace, Run, get, kubectl
from kind.runs import small_run

from .figures import Figure, main, spread

WORKERS = 4
PATIENCE_SECONDS = 240
INDEX = "batch.kubernetes.io/job-completion-index"
IMPORTS = (
    "import torch, deepspeed, transformers, pathlib, os, time; "
    "pathlib.Path('/storage', f\"{os.environ['HOSTNAME']}-{time.time_ns()}\").touch()"
)


def measure(quick: bool) -> tuple[list[list[str]], list[Figure]]:
    """Rows of the table and figures, all in seconds."""
    namespace = Namespace("benchmark-latency")
    namespace.create()
    try:
        rounds = [_round(namespace, number) for number in range(1 if quick else 3)]
    finally:
        namespace.delete()
    applied, started, recovered, job_started, job_replaced = (list(samples) for samples in zip(*rounds, strict=True))
    rows = [
        ["seconds, median (range)", "Trainyard", "indexed Job that imports the same"],
        ["apply → first step, the prepare stage included", spread(applied), ""],
        ["training stage begins → first step / apply → imports done", spread(started), spread(job_started)],
        ["pod deleted → first new step / imports done", spread(recovered), spread(job_replaced)],
    ]
    ratios = [mine / peer for mine, peer in zip(started, job_started, strict=True)]
    figures = [
        Figure("apply_to_first_step_seconds", _median(applied)),
        Figure("pod_deletion_to_first_new_step_seconds", _median(recovered)),
        Figure("stage_start_ratio_to_job", _median(ratios)),
    ]
    return rows, figures


def _round(namespace: Namespace, number: int) -> tuple[float, ...]:
    return *_trainyard(namespace, f"run-{number}"), *_job(namespace, f"job-{number}")


def _trainyard(namespace: Namespace, name: str) -> tuple[float, float, float]:
    """Seconds from apply, and from the end of the prepare stage, to the first step; from deletion to the first new one."""
    began = time.time()
    run = namespace.apply(small_run(name, workers=WORKERS, steps=100_000))
    first = first_step(run, attempt=2)
    prepared = run.status["stages"][0]["endTime"]
    started = first - datetime.fromisoformat(prepared).timestamp()
    run.until(lambda s: (s.get("checkpoint") or {}).get("step", 0) >= 10, PATIENCE_SECONDS, "has a checkpoint")
    deleted = time.time()
    run.delete_pod(1, "base", force=True)
    recovered = first_step(run, attempt=3) - deleted
    kubectl("-n", namespace.name, "delete", "trainingrun", name, "--wait=false")
    eventually(lambda: not namespace.pods(), 120, "the run's pods are gone")
    return first - began, started, recovered


def first_step(run: Run, attempt: int) -> float:
    """Unix time of the first step of an attempt, or a later one."""
    log = run.folder / "base/metrics.jsonl"

    def look() -> float | None:
        lines = log.read_text().splitlines() if log.exists() else []
        return next((_time(row) for row in _rows(lines) if row.get("attempt", 0) >= attempt and "loss" in row), None)

    found = eventually(look, PATIENCE_SECONDS, f"{run.name}: a step of attempt {attempt}", lambda: str(run.status))
    assert found
    return found


def _rows(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines if line.endswith("}")]


def _time(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(row["time"]).timestamp() if isinstance(row["time"], str) else float(row["time"])


def _job(namespace: Namespace, name: str) -> tuple[float, float]:
    trainer = get("-n", "trainyard-system", "deployment", "trainyard")["spec"]["template"]["spec"]["containers"][0]
    image = next(each["value"] for each in trainer["env"] if each["name"] == "TRAINYARD_TRAINER_IMAGE")
    container = {
        "name": "import",
        "image": image,
        "command": ["python", "-c", IMPORTS + "; import time; time.sleep(3600)"],
        "env": [{"name": "TMPDIR", "value": "/tmp"}, {"name": "HOME", "value": "/tmp"}],
        "volumeMounts": [{"name": "storage", "mountPath": "/storage"}],
    }
    pod = {
        "containers": [container],
        "volumes": [{"name": "storage", "persistentVolumeClaim": {"claimName": "training"}}],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
    }
    spec = {"completionMode": "Indexed", "completions": WORKERS, "parallelism": WORKERS, "template": {"spec": pod}}
    manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
    applied = time.time()
    kubectl("-n", namespace.name, "apply", "-f", "-", given=json.dumps(manifest))
    started = _when(lambda: _imported(namespace.folder, name), WORKERS) - applied
    victim = next(p for p in namespace.pods(f"job-name={name}") if p["metadata"]["labels"][INDEX] == "1")
    deleted = time.time()
    kubectl("-n", namespace.name, "delete", "pod", victim["metadata"]["name"], "--force", "--grace-period=0")
    replaced = _when(lambda: _imported(namespace.folder, name), WORKERS + 1) - deleted
    kubectl("-n", namespace.name, "delete", "job", name, "--wait=false")
    eventually(lambda: not namespace.pods(), 120, "the Job's pods are gone")
    return started, replaced


def _imported(folder: Path, job: str) -> list[float]:
    """When each pod of the Job had imported all, in order. A replaced pod has its predecessor's host name, but not its time."""
    return sorted(path.stat().st_mtime for path in folder.glob(f"{job}-*"))


def _when(times: Callable[[], list[float]], count: int) -> float:
    eventually(lambda: len(times()) >= count, PATIENCE_SECONDS, f"{count} pods have imported", lambda: str(times()))
    return times()[count - 1]


def _median(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]


if __name__ == "__main__":
    main("kind_latency", __doc__, measure)
