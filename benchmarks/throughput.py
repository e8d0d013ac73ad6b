"""How fast training is, in tokens of documents a second, padding not counted: beside a plain PyTorch loop and HF's Trainer.

One Llama-shaped model of 30 M parameters in fp32 on the same documents, whose lengths are as mixed as those of web pages, with
the same number of sequences in a step: in one run, in turns, each with all cores of this machine. Trainyard's is its pretrain
stage as it is, metrics and all, on one rank and on two. The plain loop is what a careful user writes: a memory-mapped stream
of tokens that is cut into sequences without padding, fused AdamW, gradient clipping. The Trainer gets documents, and pads them.

Peak memory is what a process has had in RAM since it began, the libraries that it imports included.

With --gpu it is another benchmark, of one H100 or H200: 1 B parameters, sequences of 4,096 tokens, bf16.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training import _free_port
from trainyard_api.hardware import HARDWARE

from .figures import Figure, Results, main, spread
from .throughput_data import CPU, GPU, Shape, a_job_to_train, write_corpus

CONTENDERS = {
    "plain": f"plain loop, torch {version('torch')}",
    "trainer": f"transformers {version('transformers')} Trainer",
    "trainyard": "Trainyard, 1 rank",
    "trainyard-2": "Trainyard, 2 ranks",
}


class Contender:
    """The processes of one of them, which train when they are told to."""

    def __init__(self, name: str, shape: Shape, scratch: Path, cores: int) -> None:
        kind, _, world = name.partition("-")
        world_size = int(world or 1)
        port = str(_free_port())
        self.processes = []
        for rank in range(world_size):
            job = a_job_to_train(shape, scratch, name)
            environment = os.environ | {
                "TRAINYARD_JOB": job.model_dump_json(by_alias=True),
                "TRAINYARD_ATTEMPT": "1",
                "RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": str(max(1, cores // world_size)),
                "HF_HUB_OFFLINE": "1",
            }
            log = (scratch / f"{name}.{rank}.log").open("w")
            command = [sys.executable, "-m", "benchmarks.throughput_ranks", kind, shape.model_dump_json(), str(scratch)]
            self.processes.append(
                subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
                )
            )
        self.log = scratch / f"{name}.0.log"

    def ready(self) -> None:
        """Wait until all of it has begun, which it does with a step."""
        self._told()

    def train(self, steps: int) -> dict[str, Any]:
        """So many steps; what rank 0 says of them. The peak is that of the process that had most."""
        for process in self.processes:
            assert process.stdin
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        told = self._told()
        return told[0] | {"peak": max(each["peak"] for each in told)}

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def _told(self) -> list[dict[str, Any]]:
        lines = [process.stdout.readline() for process in self.processes if process.stdout]
        if not all(lines):
            raise SystemExit(f"{self.log.name}: it ended\n{self.log.read_text()[-3000:]}")
        return [json.loads(line) for line in lines]


def measure(quick: bool) -> Results:
    """Rows of the table and figures."""
    with tempfile.TemporaryDirectory(prefix="trainyard-benchmark-") as scratch:
        samples = _run(list(CONTENDERS), CPU, Path(scratch), rounds=2 if quick else 7, steps=1 if quick else 3)
    speed = {name: statistics.median(each["speed"] for each in of) for name, of in samples.items()}
    peak = {name: max(each["peak"] for each in of) / 1e6 for name, of in samples.items()}
    rows = [["", "tokens/s, median (range)", "s a step", "positions real", "peak MB a process"]]
    for name, words in CONTENDERS.items():
        of = samples[name]
        rows.append(
            [
                words,
                spread([each["speed"] for each in of]),
                f"{statistics.median(each['seconds'] for each in of):.2f}",
                f"{100 * statistics.mean(each['real'] for each in of):.1f} %",
                f"{peak[name]:.0f}",
            ]
        )
    waited = [each["waited"] / each["seconds"] for name in ("trainyard", "trainyard-2") for each in samples[name]]
    ratios = {name: _ratios(samples, name) for name in ("trainyard", "trainyard-2")}
    figures = [
        Figure("tokens_per_second", speed["trainyard"]),
        Figure("to_plain_loop", ratios["trainyard"]["plain"], at_least=1.0),
        Figure("to_trainer", ratios["trainyard"]["trainer"], at_least=1.15),
        Figure("two_ranks_to_plain_loop", ratios["trainyard-2"]["plain"], at_least=1.0),
        Figure("two_ranks_to_trainer", ratios["trainyard-2"]["trainer"], at_least=1.15),
        Figure("peak_memory_to_plain_loop", peak["trainyard"] / peak["plain"], bar=1.0),
        Figure("data_wait_percent", 100 * statistics.median(waited), bar=1.0),
    ]
    return rows, figures


def _ratios(samples: dict[str, list[dict[str, Any]]], name: str) -> dict[str, float]:
    """Its speed as a multiple of each peer's in the same turn: what slows the machine down slows both."""
    return {
        peer: statistics.median(
            ours["speed"] / theirs["speed"] for ours, theirs in zip(samples[name], samples[peer], strict=True)
        )
        for peer in ("plain", "trainer")
    }


def _run(names: list[str], shape: Shape, scratch: Path, rounds: int, steps: int) -> dict[str, list[dict[str, Any]]]:
    """What each contender says of each turn; the first, in which memory is still being found, doesn't count."""
    write_corpus(shape, scratch / "corpus")
    contenders: dict[str, Contender] = {}
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    try:
        for name in names:
            contenders[name] = Contender(name, shape, scratch, len(os.sched_getaffinity(0)))
        for contender in contenders.values():
            contender.ready()
        for _ in range(rounds):
            for name, contender in contenders.items():
                samples[name].append(contender.train(steps))
    finally:
        for contender in contenders.values():
            contender.end()
    return samples


def measure_gpu(quick: bool) -> Results:
    """The same on one GPU, for a model that fills it."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks.throughput --gpu: torch finds no CUDA device; run it on a machine with one H100 or H200, with a torch "
            "that is built for CUDA"
        )
    device = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory(prefix="trainyard-benchmark-") as scratch:
        samples = _run(["trainyard"], GPU, Path(scratch), rounds=2 if quick else 7, steps=3 if quick else 10)[
            "trainyard"
        ]
    speed = statistics.median(each["speed"] for each in samples)
    mfu = speed * GPU.flops_a_token / HARDWARE["h100"].bf16_flops
    rows = [["", "tokens/s, median (range)", "s a step", "peak GB"]]
    rows.append(
        [
            f"Trainyard, {device}",
            spread([each["speed"] for each in samples]),
            f"{statistics.median(each['seconds'] for each in samples):.3f}",
            f"{max(each['peak'] for each in samples) / 1e9:.1f}",
        ]
    )
    return rows, [Figure("gpu_tokens_per_second", speed), Figure("gpu_mfu_percent", 100 * mfu, at_least=50)]


if __name__ == "__main__":
    main("throughput", __doc__.splitlines()[0], measure, gpu=measure_gpu)
