"""How fast training is, in tokens of documents a second, padding not counted: beside a plain PyTorch loop and HF's Trainer.

One Llama-shaped model of 30 M parameters in fp32 on the same documents, whose lengths are as mixed as those of web pages, with
the same number of sequences in a step: in one run, in turns, each with all cores of this machine. Trainyard's is its pretrain
stage as it is, metrics and all, on one rank and on two. The plain loop is what a careful user writes: a memory-mapped stream
of tokens that is cut into sequences without padding, fused AdamW, gradient clipping. The Trainer gets documents, and pads them.

Peak memory is what a process has had in RAM since it began, the libraries that it imports included.

With --gpu it is another benchmark, of one H100 or H200: 1 B parameters, sequences of 4,096 tokens, bf16.
"""

import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainyard_api.hardware import HARDWARE

from .contending import Contender, take_turns
from .figures import Figure, Results, main, spread
from .throughput_data import CPU, GPU, Shape, a_job_to_train, write_corpus

CONTENDERS = {
    "plain": f"plain loop, torch {version('torch')}",
    "trainer": f"transformers {version('transformers')} Trainer",
    "trainyard": "Trainyard, 1 rank",
    "trainyard-2": "Trainyard, 2 ranks",
}


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
    """What each contender says of each turn."""
    write_corpus(shape, scratch / "corpus")
    contenders = {}
    for name in names:
        kind, _, world = name.partition("-")
        command = ["benchmarks.throughput_ranks", kind, shape.model_dump_json(), str(scratch)]
        job = a_job_to_train(shape, scratch, name)
        contenders[name] = Contender(command, job, int(world or 1), scratch / f"{name}.log")
    return take_turns(contenders, rounds, steps)


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
