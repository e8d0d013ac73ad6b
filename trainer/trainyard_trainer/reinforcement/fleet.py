"""The workers that draw, as rank 0 of those that learn commands them, over Ray; and what such a worker does.

Rank 0 starts Ray's head with its attempt, and says where it is in the store through which ranks find each other; workers that
draw wait for that, join, and stay until they are told that all is over. Ray restarts a model that has died and repeats what it
was asked. A worker that dies ends the attempt, as any worker's death does.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist

from .. import stopping
from ..errors import PeerLostError, RetryableError, StageError, StopRequested
from ..group import Group
from ..pulse import Pulse
from .ray_process import DRAWING, RayProcess, settings
from .responding import Asked, Rolled
from .rollout_engines import Setup
from .rollout_worker import RolloutWorker
from .weights import Weights

End = Literal["done", "stopped"]
_HEAD, _STOP, _END, _LEFT = "ray-head", "ray-stop", "ray-end", "ray-left"
"""Keys of the store."""
_REPEATS = 3
"""Of what a model was asked that has died meanwhile; then something is wrong with that."""
_LOOK_SECONDS = 0.2
_LEAVE_SECONDS = 30.0
"""For workers to see that all is over."""


class Fleet:
    """Models that draw."""

    def __init__(self, group: Group, workers: int) -> None:
        """Start the head, for so many of the last workers; nothing is waited for. `group` is of those that learn."""
        self._group, self._workers = group, workers
        self._per_worker = _ranks_per_worker()
        address, self._port = os.environ["MASTER_ADDR"], _free_port()
        self._address = socket.gethostbyname(address)
        self._head = RayProcess(group)
        self._head.head(self._address, self._port)
        self._store: dist.TCPStore
        self._actors: list[Any] = []
        self._setup: Any = None
        self._weights: Any = None
        self._version = 0

    @property
    def models(self) -> int:
        """How many there are."""
        return self._workers * self._per_worker

    def connect(self) -> None:
        """Command them: once the ranks that learn are connected, for the store is theirs."""
        self._store = _store(self._group)
        self._store.set(_HEAD, f"{self._address}:{self._port}")  # workers wait for it by themselves
        os.environ.update(settings())
        import ray

        while not _answers(self._address, self._port):
            self._head.check()
            time.sleep(_LOOK_SECONDS)
        on_stop = signal.getsignal(signal.SIGTERM)
        ray.init(address=f"{self._address}:{self._port}", _node_ip_address=self._address, logging_level="ERROR")
        signal.signal(signal.SIGTERM, on_stop)  # Ray would end this process
        actor = ray.remote(max_restarts=-1, max_task_retries=_REPEATS)(RolloutWorker)
        needs = {"num_cpus": 0, "num_gpus": int(torch.cuda.is_available()), "resources": {DRAWING: 1}}
        self._actors = [actor.options(**needs).remote() for _ in range(self.models)]

    def begin(self, setup: Setup) -> None:
        """What all of them begin with. Whether they can is told with what they are asked first."""
        import ray

        self._setup = ray.put(setup)
        for each in self._actors:
            each.begin.remote(self._setup)

    def push(self, weights: Weights) -> None:
        """Draw by these from now on."""
        import ray

        self._weights, self._version = ray.put(weights), self._version + 1

    def ask(self, parts: Sequence[list[Asked]]) -> list[Any]:
        """Have them answer, each some of the parts, in their order; what comes of each is for `answers`."""
        return [
            self._actors[number % len(self._actors)].roll_out.remote(self._setup, self._version, self._weights, part)
            for number, part in enumerate(parts)
        ]

    def answers(self, awaited: Sequence[Any]) -> list[Rolled]:
        """To each part, when they are there. StageErrors are as where they were raised."""
        import ray

        try:
            rolled: list[Rolled] = ray.get(list(awaited))
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, StageError) else error) from None
        except ray.exceptions.RayError as error:
            raise PeerLostError(f"a worker that draws is lost: {' '.join(str(error).split())}") from None
        return rolled

    def hear_stop(self) -> None:
        """If a worker that draws was asked to stop, so is this rank, and with it all that learn."""
        if self._store.check([_STOP]):
            stopping.request()

    def close(self, end: End) -> None:
        """All is over. Returns when all workers know."""
        import ray

        self._store.set(_END, end)
        until = time.monotonic() + _LEAVE_SECONDS
        while self._store.add(_LEFT, 0) < self.models and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        ray.shutdown()
        self._head.close()


def learners_of(group: Group, workers: int) -> Group:
    """The group as those see it that learn: without so many of its last workers."""
    return replace(group, world_size=group.world_size - workers * _ranks_per_worker())


def draw_for_others(group: Group) -> None:
    """Be one of the workers that draw, until all is over."""
    stopping.hold_back()  # what others are to save may need what is drawn here
    pulse = Pulse(group)
    process = RayProcess(group) if not group.local_rank else None
    try:
        store = _store(group)
        while not store.check([_HEAD]):
            pulse.beat("waiting")
            time.sleep(_LOOK_SECONDS)
        if process:
            addresses = (
                json.loads(os.environ.get("TRAINYARD_ADDRESSES", "[]"))
                or [os.environ["MASTER_ADDR"]] * group.world_size
            )
            address = socket.gethostbyname(addresses[group.rank // _ranks_per_worker()])
            process.node(store.get(_HEAD).decode(), address, _ranks_per_worker())
        while not store.check([_END]):
            pulse.beat("working")
            if stopping.requested():
                store.set(_STOP, "")
            if process:
                process.check()
            time.sleep(_LOOK_SECONDS)
        end = store.get(_END).decode()
        store.add(_LEFT, 1)
    except dist.DistError as error:
        if stopping.requested():
            raise StopRequested(stopping.NOTHING_TO_SAVE) from None
        raise PeerLostError(f"lost rank 0, which learns: {next(iter(str(error).splitlines()), '')}") from None
    finally:
        if process:
            process.close()
    if end == "stopped":
        raise StopRequested("those that learn have saved")


def _ranks_per_worker() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _store(group: Group) -> dist.TCPStore:
    """Of rank 0, which serves it as long as it lives."""
    patience = timedelta(seconds=max(group.job.hang_seconds, group.job.start_seconds))
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return dist.TCPStore(*place, is_master=False, wait_for_workers=False, timeout=patience)
    except dist.DistError as error:
        raise RetryableError(f"rank 0 can't be reached at {place[0]}:{place[1]}: {error}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True
