"""Real agents on loopback addresses of their own, with real ranks.

What a rank does is handed to it by the test: a `sitecustomize` on PYTHONPATH puts a stage in the place of `export` that
runs the Python source in its settings, with the rank's own `group` at hand. To an agent whose stage is `evaluate` it gives
a warm process that has nothing to import, or that fails to.
"""

import itertools
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conditions import eventually
from trainyard_api.protocol import AgentState, Assignment, Job, Termination
from trainyard_api.tls import trusting

DEADLINE = 60.0
TOKEN = "a token that only this run's operator knows"
SCRIPTED_STAGE = """
import os, sys, types

def export(group):
    exec(group.job.settings["source"], {"group": group})

stage = types.ModuleType("trainyard_trainer.stages.export")
stage.export = export
sys.modules[stage.__name__] = stage
sys.modules["trainyard_trainer.stages.evaluate"] = None if "WARM_FAILS" in os.environ else types.ModuleType("evaluate")
"""
addresses = (f"127.{64 + os.getpid() % 64}.{n // 250}.{n % 250 + 1}" for n in itertools.count())


class AgentUnderTest:
    """An agent's process, and the HTTP client that an operator would be."""

    def __init__(
        self, folder: Path, storage: Path, variables: dict[str, str], before_exec: Callable[[], None] | None
    ) -> None:
        self.storage = storage
        self.address = next(addresses)
        tls_file = variables.get("TRAINYARD_TLS_FILE")
        self.trust = trusting(Path(tls_file).read_text()) if tls_file else None
        """What this client trusts; None to speak plain HTTP."""
        self.termination_log = folder / "termination-log"
        modules = folder / "modules"
        modules.mkdir(parents=True)
        (modules / "sitecustomize.py").write_text(SCRIPTED_STAGE)
        (folder / "token").write_text(TOKEN)
        self.log = folder / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainyard_trainer.main", "agent"],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH")])),
                    "TRAINYARD_BIND": self.address,
                    "TRAINYARD_TOKEN_FILE": str(folder / "token"),
                    "TRAINYARD_MASTER_PORT": "0",
                    "TRAINYARD_TERMINATION_LOG": str(self.termination_log),
                    "TRAINYARD_NAMESPACE": "team",
                    "TRAINYARD_RUN": "tiny",
                    "TRAINYARD_STAGE": "base",
                    "OMP_NUM_THREADS": "1",
                    **variables,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=before_exec,
            )

    def request(
        self, path: str, body: bytes | None = None, token: str | None = TOKEN, method: str = "GET"
    ) -> tuple[int, str]:
        """Status code and body of the answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        scheme = "https" if self.trust else "http"
        request = urllib.request.Request(f"{scheme}://{self.address}:9400{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE, context=self.trust) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> "AgentUnderTest":
        """This agent, once it answers."""
        eventually(self._answers, DEADLINE, f"{self.address} answers", self.log.read_text)
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.request("/healthz", token=None)[0] == 200
        except OSError:
            return False

    def state(self, since: int | None = None, wait: float = 0) -> AgentState:
        """What the agent knows."""
        query = f"?wait={wait}" + (f"&since={since}" if since is not None else "")
        status, body = self.request(f"/state{query}")
        assert status == 200, body
        return AgentState.model_validate_json(body)

    def when(self, holds: Callable[[AgentState], Any]) -> AgentState:
        """The first state that we see for which the condition holds; long polls on the way."""
        deadline = time.monotonic() + DEADLINE
        state = self.state()
        while not holds(state):
            assert time.monotonic() < deadline, f"{state}\n{self.log.read_text()}"
            state = self.state(since=state.version, wait=DEADLINE / 2)
        return state

    def assignment(
        self, source: str = "", *, attempt: int = 1, ranks: int = 1, workers: int = 1, worker: int = 0, **job: Any
    ) -> Assignment:
        """A place in a group whose ranks run `source`; fields of `Job` to have a real stage instead."""
        output = f"file://{self.storage}/team/tiny/base"
        fields = {"kind": "export", "settings": {"source": source}, "inputs": {}, "output_uri": output} | job
        return Assignment(
            attempt=attempt,
            workers=workers,
            worker=worker,
            ranks_per_worker=ranks,
            master_address=self.address,
            master_port=self.state().master_port,
            addresses=[self.address] * workers,
            job=Job(
                namespace="team",
                run="tiny",
                run_uid="1-2-3",
                stage="base",
                seed=0,
                storage_uri=f"file://{self.storage}",
                **fields,
            ),
        )

    def put(self, assignment: Assignment) -> tuple[int, str]:
        """Status code and body of the answer to an assignment."""
        return self.request("/assignment", assignment.model_dump_json(by_alias=True).encode(), method="PUT")

    def said(self) -> list[Any]:
        """What ranks have printed as JSON, a value a line."""
        lines = (line.partition("] ")[2] for line in self.log.read_text().splitlines() if line.startswith("[rank "))
        return [json.loads(line) for line in lines if line.startswith(("[", "{"))]

    def assign(self, source: str = "", **fields: Any) -> None:
        """Give the agent an assignment that it takes."""
        status, body = self.put(self.assignment(source, **fields))
        assert status == 200, body

    def failed(self, attempt: int = 1) -> Termination:
        """How the attempt failed, once it has."""
        return self.when(lambda state: state.attempt == attempt and state.phase == "failed").termination

    def signal(self, number: int) -> None:
        """Send the agent, and it alone, a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """The exit code, once it has ended."""
        return self.process.wait(DEADLINE)

    @property
    def termination(self) -> Termination:
        """What the kubelet would read."""
        return Termination.model_validate_json(self.termination_log.read_bytes())


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def until_gone(pids: list[int]) -> None:
    """Wait until none of the processes runs any more."""
    eventually(lambda: not any(map(alive, pids)), DEADLINE, f"processes {pids} are gone")


def parsed(exposition: str) -> dict[str, float]:
    """Series as written → value."""
    lines = (line.rpartition(" ") for line in exposition.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, _, value in lines}


def errors_of(body: str) -> list[str]:
    """The reasons in a refusal."""
    errors: list[str] = json.loads(body)["errors"]
    return errors
