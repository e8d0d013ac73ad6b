"""Contenders of a benchmark that train in turns: processes that train when told to, with all cores."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from training import _free_port
from trainyard_api.protocol import Job


class Contender:
    """The processes of one of them, of a module of this package: `python -m benchmarks.MODULE WORD …`."""

    def __init__(self, command: list[str], job: Job, world_size: int, log: Path) -> None:
        self.log = log
        port = str(_free_port())
        self.processes = []
        for rank in range(world_size):
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
                "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // world_size)),
                "HF_HUB_OFFLINE": "1",
            }
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", *command],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=(log if rank == 0 else log.with_suffix(f".{rank}.log")).open("w"),
                    text=True,
                )
            )

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


def take_turns(contenders: dict[str, Contender], rounds: int, steps: int) -> dict[str, list[dict[str, Any]]]:
    """What each says of each of its turns, of so many steps; the first, in which memory is still being found, doesn't count."""
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    try:
        for contender in contenders.values():
            contender.ready()
        for _ in range(rounds):
            for name, contender in contenders.items():
                samples[name].append(contender.train(steps))
    finally:
        for contender in contenders.values():
            contender.end()
    return samples
