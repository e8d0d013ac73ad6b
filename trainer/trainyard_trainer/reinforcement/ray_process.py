"""Ray's own processes on one worker. They last as long as the rank that starts them, however that ends: `ray_main` ends with
it, and what `ray start --block` has started ends with that.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import RetryableError
from ..group import Group

DRAWING = "drawing"
"""A resource of Ray's: what a model that draws takes one of."""
_LAST_CHARACTERS = 2000
_END_SECONDS = 5.0
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",  # the autoscaler's hints: there is none
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}


class RayProcess:
    """Ray on one worker."""

    def __init__(self, group: Group) -> None:
        """Get ready; `head` or `node` says what it is."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it is gone with this process
        self._folder = _folder(group)
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.ray_main", str(os.getpid())],
            env={**os.environ, **settings()},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def head(self, address: str, port: int) -> None:
        """Be where Ray keeps what it knows, and rank 0 commands it. Nothing is computed there."""
        place = [f"--node-ip-address={address}", f"--port={port}", f"--temp-dir={self._folder}"]
        self._start("--head", *place, "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false", "--no-monitor")

    def node(self, head: str, address: str, models: int) -> None:
        """Be a place for so many models that draw. `head` is the head's address and port."""
        resources = f'--resources={{"{DRAWING}": {models}}}'
        self._start(f"--address={head}", f"--node-ip-address={address}", "--num-cpus=0", resources)

    def _start(self, *arguments: str) -> None:
        """It takes seconds to be there."""
        assert self._process.stdin
        with suppress(BrokenPipeError), self._process.stdin as given:  # `check` tells of one that has ended
            given.write(json.dumps(["start", "--block", "--disable-usage-stats", *arguments]).encode() + b"\n")

    def check(self) -> None:
        """RetryableError if it has ended."""
        if (code := self._process.poll()) is not None:
            self._log.seek(0)
            said = self._log.read().decode(errors="replace")[-_LAST_CHARACTERS:].strip()
            raise RetryableError(f"Ray's processes on this worker have ended with code {code}: {said}")

    def close(self) -> None:
        """End it, with all that it has started."""
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment of all that talks to Ray in a run: whoever has not its token is refused."""
    token = environment.get("TRAINYARD_TOKEN_FILE")
    authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token} if token else {}
    return {**_SETTINGS, **authentication}


def _folder(group: Group) -> Path:
    """Where Ray keeps logs and sockets, whose paths may not be long."""
    return Path(
        "/tmp", f"trainyard-ray-{os.geteuid()}-{group.job.run_uid[:8]}-{group.attempt}-{os.environ['MASTER_PORT']}"
    )
