"""What saving and recovering take at a scale: from what is measured here, what others publish, and what is assumed.

CLOCKS are figures of benchmarks.checkpoint and benchmarks.recovery; `--clocks FILE` puts others in their place. Those of saving
are of 351 MB a rank and grow in proportion. The rest of this file is not measured here.
"""

from collections.abc import Mapping
from functools import partial

from trainyard_trainer.checkpoint.interval import FIRST_SECONDS, best_interval, between_failures

from .goodput_replay import Kind, Policy, Recovery

CLOCKS: dict[str, float] = {
    # python -m benchmarks.checkpoint, on 2 CPU cores
    "checkpoint.stall_milliseconds": 15.4,
    "checkpoint.stall_to_deepspeed": 0.05,
    "checkpoint.restore_from_memory_seconds": 0.34,
    # python -m benchmarks.recovery, on kind on the same machine, medians of ten
    "recovery.rank_killed_detect_seconds": 0.005,
    "recovery.rank_killed_reform_seconds": 1.22,
    "recovery.pod_deleted_detect_seconds": 0.0,
    "recovery.pod_deleted_reform_seconds": 5.40,
    "recovery.node_lost_detect_seconds": 8.26,
    "recovery.node_lost_reform_seconds": 6.04,
}
MEASURED_BYTES = 351e6
"""A rank's, in benchmarks.checkpoint."""

# The model is Llama 3 405B at every scale: parameters, and seconds of a step as published (16 M tokens over 16,384 GPUs at
# 400 TFLOP/s each), the batch in proportion to GPUs. State is fully sharded: fp32 weights and both moments of Adam.
STATE_BYTES = 405e9 * 12
STEP_SECONDS = 6.0
GPUS_A_NODE = 8
# The storage of Llama 3 sustains 2 TB/s for 16,384 GPUs (arXiv 2407.21783); per GPU that is less than what a rank has here.
STORAGE_BYTES_PER_GPU_SECOND = 2e12 / 16_384
# NCCL's initialization takes 265 s at 96k GPUs (arXiv 2510.20171); more than linear, so a share of it is rather too much.
COLLECTIVES_SECONDS_PER_GPU = 265 / 98_304
# Assumed: CUDA contexts, kernels and first step of a process on a GPU; imports in a new container, its image being there.
GPU_SECONDS = 15.0
IMPORT_SECONDS = 20.0
# Both wait that long for a hang to show: `hangSeconds` of Trainyard by default, and the time-out of NCCL's watchdog.
HANG_SECONDS = 600.0
# JobSet, `restartStrategy: Recreate`: four bare pods run again after 4.8 s (measured on kind), those of 5,000 nodes after 130 s
# (DaoCloud, "AI Job Restarts 10x Faster", 2026). Kubernetes by default evicts from a silent node after 350 s.
RECREATE_SECONDS = 4.8
RECREATE_SECONDS_PER_NODE = 130 / 5_000
EVICTED_SECONDS = 350.0


def trainyard(gpus: int, clocks: Mapping[str, float]) -> Policy:
    """The smallest tier for each kind of failure; ranks that died alone resume from memory."""
    grown = STATE_BYTES / gpus / MEASURED_BYTES
    begin = GPU_SECONDS + gpus * COLLECTIVES_SECONDS_PER_GPU
    memory = clocks["checkpoint.restore_from_memory_seconds"] * grown
    in_place = clocks["recovery.rank_killed_reform_seconds"] + begin
    pod = clocks["recovery.pod_deleted_reform_seconds"] + IMPORT_SECONDS + begin
    node = clocks["recovery.node_lost_reform_seconds"] + IMPORT_SECONDS + begin
    stored = _from_storage(gpus)  # also what other workers' memory has: no rate is measured between nodes
    return _policy(
        gpus,
        clocks["checkpoint.stall_milliseconds"] / 1_000 * grown,
        {
            "rank": Recovery(clocks["recovery.rank_killed_detect_seconds"], in_place, memory, from_memory=True),
            "hang": Recovery(HANG_SECONDS, in_place, memory, from_memory=True),
            "pod": Recovery(clocks["recovery.pod_deleted_detect_seconds"], pod, stored),
            "node": Recovery(clocks["recovery.node_lost_detect_seconds"], node, stored),
        },
    )


def recreation(gpus: int, clocks: Mapping[str, float]) -> Policy:
    """All pods made anew after each failure, resumed from storage; saves stall for as long as DeepSpeed's, which is measured
    into the page cache. Its interval is chosen as Trainyard's is, and it sees ends of processes as soon: both favour it.
    """
    stall = clocks["checkpoint.stall_milliseconds"] / 1_000 / clocks["checkpoint.stall_to_deepspeed"]
    made = RECREATE_SECONDS + gpus / GPUS_A_NODE * RECREATE_SECONDS_PER_NODE
    anew = made + IMPORT_SECONDS + GPU_SECONDS + gpus * COLLECTIVES_SECONDS_PER_GPU
    detecting: dict[Kind, float] = {
        "rank": clocks["recovery.rank_killed_detect_seconds"],
        "hang": HANG_SECONDS,
        "pod": clocks["recovery.pod_deleted_detect_seconds"],
        "node": EVICTED_SECONDS,
    }
    recoveries = {kind: Recovery(seconds, anew, _from_storage(gpus)) for kind, seconds in detecting.items()}
    return _policy(gpus, stall * STATE_BYTES / gpus / MEASURED_BYTES, recoveries)


def _policy(gpus: int, stall: float, recoveries: dict[Kind, Recovery]) -> Policy:
    durable = max(stall, _from_storage(gpus))  # written as fast as it is read
    interval = partial(_interval, stall, durable, gpus)
    return Policy(STEP_SECONDS, stall, durable, FIRST_SECONDS, interval, recoveries)


def _interval(stall: float, durable: float, gpus: int, failures: int, seconds: float) -> float:
    """What `everySeconds: auto` chooses, by the trainer's own functions."""
    return best_interval(stall, durable, between_failures(failures, seconds, gpus))


def _from_storage(gpus: int) -> float:
    return STATE_BYTES / gpus / STORAGE_BYTES_PER_GPU_SECOND
