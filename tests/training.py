"""Starting the ranks of a stage as an agent does, and reading back what they left."""

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from preparing import put, run_prepare
from trainyard_api.checkpoint import committed as saved
from trainyard_api.protocol import Job
from trainyard_api.storage import Files

TINY_LLAMA = {
    "type": "llama",
    "config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
}
TINY_GPT2_WITH_DROPOUT = {
    "type": "gpt2",
    "config": {"n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
}
TINY: dict[str, Any] = {
    "data": "corpus",
    "model": TINY_LLAMA,
    "steps": 4,
    "sequenceLength": 16,
    "globalBatch": 8,
    "microBatch": 2,
    "schedule": {"warmupSteps": 2},
    "validation": {"everySteps": 2, "sequences": 5},
    "checkpoint": {"everySteps": 2},
}


def a_corpus(storage: Path) -> Path:
    """A prepared corpus of some thousand tokens, vocabulary 300."""
    draw = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bdgkl" for b in "aeiou" for c in "mnrst"]
    texts = {f"{number}.txt": " ".join(draw.choices(words, k=400)) + "\n" for number in range(12)}
    put(storage / "texts", texts)
    run_prepare(storage, {"path": "texts"}, out="corpus")
    return storage / "corpus"


def a_job(kind: str, output: Path, settings: dict[str, Any], inputs: dict[str, Path]) -> Job:
    return Job(
        namespace="default",
        run="tiny",
        run_uid="u",
        stage=output.name,
        kind=kind,
        settings=settings,
        seed=7,
        storage_uri=f"file://{output.parent}",
        output_uri=f"file://{output}",
        inputs={field: f"file://{path}" for field, path in inputs.items()},
    )


class Ranks:
    """The processes of a stage. None of them can find a compiler: PATH leads nowhere."""

    def __init__(
        self,
        job: Job,
        world_size: int = 2,
        attempt: int = 1,
        script: tuple[str, ...] = (),
        folder: Path | None = None,
        **environment: str,
    ) -> None:
        """What they say goes to `folder`, by default the stage's own."""
        self.output = folder or Path(job.output_uri.removeprefix("file://"))
        self.output.mkdir(exist_ok=True)
        self.port = _free_port()
        self._logs = [self.output / f"rank-{rank}.{attempt}.log" for rank in range(world_size)]
        self._reports = self.output / f"reports.{attempt}.jsonl"
        reports = os.open(self._reports, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.processes = [
            self._start(
                script or ("-m", "trainyard_trainer.rank"),
                {
                    "PATH": "/nowhere",
                    "HOME": str(self.output),
                    "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
                    "TORCH_EXTENSIONS_DIR": str(self.output / "compiled"),
                    "HF_HUB_OFFLINE": "1",
                    "RANK": str(rank),
                    "WORLD_SIZE": str(world_size),
                    "LOCAL_RANK": str(rank),
                    "LOCAL_WORLD_SIZE": str(world_size),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(self.port),
                    "GLOO_SOCKET_IFNAME": "lo",
                    "OMP_NUM_THREADS": "1",
                    "TRAINYARD_JOB": job.model_dump_json(by_alias=True),
                    "TRAINYARD_ATTEMPT": str(attempt),
                    "TRAINYARD_REPORT_FD": str(reports),
                    **environment,
                },
                log,
                reports,
            )
            for rank, log in enumerate(self._logs)
        ]
        os.close(reports)

    def _start(self, script: tuple[str, ...], environment: dict[str, str], log: Path, reports: int) -> Any:
        return subprocess.Popen(
            [sys.executable, *script],
            env=environment,
            pass_fds=[reports],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def wait(self, seconds: float = 800) -> list[int]:
        """Exit codes by rank; whoever isn't done in time is killed."""
        try:
            return [process.wait(seconds) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def succeed(self) -> None:
        """Wait; fail with the ranks' output unless all is well and nothing was compiled."""
        codes = self.wait()
        assert codes == [0] * len(codes), self.said()
        assert not (self.output / "compiled").exists()

    def said(self) -> str:
        """What the ranks printed."""
        return "\n".join(log.read_text()[-3000:] for log in self._logs)

    def reports(self) -> list[dict[str, Any]]:
        """All that was reported to the agent so far."""
        return [json.loads(line) for line in self._reports.read_text().splitlines()]

    def writers(self) -> list[int]:
        """The processes that write checkpoints, of the ranks that run."""
        children = (Path(f"/proc/{rank.pid}/task/{rank.pid}/children") for rank in self.processes)
        return [int(child) for each in children if each.exists() for child in each.read_text().split()]


def metric_lines(output: Path) -> list[dict[str, Any]]:
    """What training has said of itself so far: whole lines, for it may be writing one."""
    file = output / "metrics.jsonl"
    return (
        [json.loads(line) for line in file.read_text().splitlines(True) if line.endswith("\n")] if file.exists() else []
    )


def losses(output: Path) -> dict[int, float]:
    """Step → loss; of a step that was done twice, the later."""
    return {line["step"]: line["loss"] for line in metric_lines(output) if "loss" in line}


def held_out_losses(output: Path) -> dict[int, float]:
    return {line["step"]: line["held_out_loss"] for line in metric_lines(output) if "held_out_loss" in line}


def committed_steps(output: Path) -> list[int]:
    """Steps of which a stage has a checkpoint that counts, in ascending order."""
    return [name.step for name in saved(Files(output / "checkpoints"))]


def committed(output: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    [name] = [name for name in saved(Files(output / "checkpoints")) if name.step == step]
    return output / f"checkpoints/{name}"


def shard_digests(output: Path, step: int) -> list[str]:
    """SHA-256 of each rank's weights, moments and random streams: equal digests are equal bits.

    Without the header, which names the run and the attempt too.
    """
    shards = [shard.read_bytes() for shard in sorted(committed(output, step).glob("*.safetensors"))]
    return [hashlib.sha256(shard[8 + int.from_bytes(shard[:8], "little") :]).hexdigest() for shard in shards]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
