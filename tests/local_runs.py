"""`trainyard run` as a user starts it, in a folder of its own, and what it leaves there."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from training import shard_digests
from trainyard_operator.cluster import processes
from trainyard_operator.cluster.home import Home

TRAINYARD = Path(sys.executable).parent / "trainyard"
KEY = ("default", "tiny")
DEADLINE = 150

PREPARE = {"sources": [{"builtin": "python-docs"}], "tokenizer": {"vocabSize": 512}}
LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
PRETRAIN: dict[str, Any] = {
    "data": "corpus",
    "model": {"type": "llama", "config": LLAMA},
    "steps": 200,
    "sequenceLength": 64,
    "globalBatch": 4,
    "microBatch": 2,
    "checkpoint": {"everySteps": 10},
    "validation": {"everySteps": 40, "sequences": 4},
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "telemetry": {"peakFlops": 1e11},
    "profile": {"steps": [3, 4]},
}
TRAINED = [
    {"name": "corpus", "prepare": PREPARE},
    {"name": "base", "pretrain": PRETRAIN},
]


def write_run(folder: Path, stages: list[dict[str, Any]], **spec: Any) -> Path:
    """A file with a run of two workers."""
    run = {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "tiny"},
        "spec": {"storage": {"claimName": "training"}, "workers": {"count": 2}, "stages": stages, **spec},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    return file


def trainyard(folder: Path, *arguments: str, seconds: float = DEADLINE) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end, which is to come within so many seconds."""
    command = [TRAINYARD, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`trainyard run` in the background; ended with the context."""
    command = [TRAINYARD, "run", "run.yaml", "--plain", *arguments]
    with (
        open(folder / "output.txt", "a") as output,
        subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, text=True) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def stored(folder: Path) -> dict[str, Any]:
    """The run's manifest, {} before there is one."""
    return Home(folder / ".trainyard").read_run(*KEY) or {}


def made(folder: Path) -> Path:
    """Where the artifacts are."""
    return Home(folder / ".trainyard").volume("training") / "default" / "tiny"


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of the pretrain stage's metrics.jsonl; a last one that is still being written is left out."""
    file = made(folder) / "base" / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps_done(folder: Path) -> int:
    """The last step that the pretrain stage has recorded."""
    rows = metrics(folder)
    return int(rows[-1]["step"]) if rows else 0


def events(folder: Path) -> list[dict[str, Any]]:
    """All that was posted."""
    return [json.loads(line) for line in (Home(folder / ".trainyard").folder(*KEY) / "events.jsonl").open()]


COMMANDS = {"agent": b"trainyard-trainer", "warm": b"trainyard_trainer.warm", "writer": b"checkpoint.writer"}
"""What a process of each kind has in its command line."""
RANK = "rank-"
"""What a rank's own name begins with; its command line may be that of the warm process which it was forked from."""
PROCESSES = ("rank", *COMMANDS)


def living(folder: Path) -> dict[str, list[int]]:
    """Pids of the run's processes, by kind; kinds that none lives of are left out."""
    found: dict[str, list[int]] = {}
    for pid, (name, command) in _processes(folder).items():
        kinds = (kind for kind, words in COMMANDS.items() if words in command)
        if kind := "rank" if name.startswith(RANK) else next(kinds, None):
            found.setdefault(kind, []).append(pid)
    return found


def rank_processes(folder: Path) -> dict[int, int]:
    """Pid of each rank that runs now."""
    names = {pid: name for pid, (name, _) in _processes(folder).items()}
    return {int(name.removeprefix(RANK)): pid for pid, name in names.items() if name.startswith(RANK)}


def _processes(folder: Path) -> dict[int, tuple[str, bytes]]:
    """Name and command line of each of the run's processes."""
    found = {}
    for pid in processes.living(f"{stored(folder)['metadata']['uid']}/"):
        try:
            found[pid] = (Path(f"/proc/{pid}/comm").read_text().strip(), Path(f"/proc/{pid}/cmdline").read_bytes())
        except OSError:  # gone
            continue
    return found


def agent_processes(folder: Path) -> dict[str, int]:
    """Pid of each agent that runs now, by the name of its pod."""
    return {pod: pid for pid in living(folder).get("agent", []) if (pod := _pod(pid))}


def pod_processes(folder: Path, pod: str) -> list[int]:
    """Pids of all that runs in a pod."""
    return [pid for pid in _processes(folder) if _pod(pid) == pod]


def _pod(pid: int) -> str:
    """The pod that a process runs in; empty if the process is gone."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next(each for each in variables if each.startswith(b"TRAINYARD_POD=")).partition(b"=")[2].decode()


def weights(folder: Path) -> list[str]:
    """Digests of what training has ended with: weights, moments and random streams of each rank."""
    return shard_digests(made(folder) / "base", PRETRAIN["steps"])


def nothing_lives(folder: Path) -> bool:
    """Whether all processes of the run are gone."""
    return processes.living(f"{stored(folder)['metadata']['uid']}/") == []
