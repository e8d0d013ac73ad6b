"""A real Prometheus that scrapes a real run: `trainyard run` on this machine, and its agents as they come and go."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conditions import eventually
from trainyard_api.names import AGENT_PORT
from trainyard_operator.cluster import processes
from trainyard_operator.cluster.home import Home, replace

KEY = ("default", "watched")
RUN = {
    "apiVersion": "trainyard.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": KEY[1]},
    "spec": {
        "storage": {"claimName": "training"},
        "stages": [
            {
                "name": "corpus",
                "prepare": {
                    "sources": [{"builtin": "python-docs"}],
                    "tokenizer": {"vocabSize": 512},
                    "heldOutFraction": 0.15,
                },
            },
            {
                "name": "base",
                "pretrain": {
                    "data": "corpus",
                    "model": {
                        "type": "llama",
                        "config": {
                            "hidden_size": 32,
                            "intermediate_size": 64,
                            "num_hidden_layers": 1,
                            "num_attention_heads": 2,
                        },
                    },
                    "steps": 1_000_000,  # ended by the tests
                    "sequenceLength": 32,
                    "globalBatch": 2,
                    "microBatch": 2,
                    "checkpoint": {"everySteps": 25},
                    "telemetry": {"peakFlops": 1e11},
                    "validation": {"everySteps": 25, "sequences": 2},
                },
            },
        ],
    },
}


@dataclass(frozen=True)
class Prometheus:
    """A server that scrapes operator and agents of the run, and what they export."""

    url: str
    exported: frozenset[str] = frozenset()
    """Names of all metrics on both pages, whether or not they have samples."""

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The series that an instant query finds now; fails with the server's words if it is no valid query."""
        query = urllib.parse.urlencode({"query": promql})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=10) as answer:
                return list(json.load(answer)["data"]["result"])
        except urllib.error.HTTPError as error:
            pytest.fail(f"{promql}: {json.load(error)['error']}")


@contextmanager
def trainyard(folder: Path) -> Iterator[str]:
    """`trainyard run` in the background, as long as the context lasts; gives the URL of its metrics."""
    file, output = folder / "run.yaml", folder / "output.txt"
    file.write_text(yaml.safe_dump(RUN))
    command = [Path(sys.executable).parent / "trainyard", "run", file, "--plain", "--metrics-port", "0"]
    with open(output, "wb") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        try:
            said = r"metrics at (http://\S+)/metrics"
            yield eventually(lambda: re.search(said, output.read_text()), 60, "metrics", output.read_text)[1]
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            process.kill()


@contextmanager
def scraping(binary: Path, folder: Path, operator_url: str, targets: Path, **of_agents: Any) -> Iterator[str]:
    """The server, as long as the context lasts; gives its URL. `targets` lists the agents, and may change."""
    url = f"http://127.0.0.1:{_free_port()}"
    agents = {"job_name": "agents", "honor_labels": True, "file_sd_configs": [{"files": [str(targets)]}], **of_agents}
    address = operator_url.removeprefix("http://")
    operator = {"job_name": "operator", "honor_labels": True, "static_configs": [{"targets": [address]}]}
    config = {"global": {"scrape_interval": "2s"}, "scrape_configs": [operator, agents]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    output = folder / "prometheus.txt"
    with open(output, "wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            eventually(lambda: _answers(f"{url}/-/ready"), 30, "Prometheus is ready", output.read_text)
            yield url
        finally:
            process.kill()


def trained(folder: Path, targets: Path, steps: int) -> str:
    """Wait until an agent has trained for so many steps, and let it be scraped; its address."""

    def look() -> str | None:
        addresses = _agents(folder)
        listed = json.dumps([{"targets": [f"{address}:{AGENT_PORT}" for address in addresses]}])
        if not targets.exists() or targets.read_text() != listed:
            replace(targets, listed.encode(), 0o644)
        for address in addresses:
            shown = _answers(f"http://{address}:{AGENT_PORT}/metrics")
            step = re.search(r"""^trainyard_step{.*stage="base".*} (\S+)$""", shown, re.MULTILINE)
            if step and float(step[1]) >= steps:
                return address
        return None

    return eventually(look, 120, f"{steps} steps trained", (folder / "output.txt").read_text)


def _agents(folder: Path) -> list[str]:
    """Addresses of the run's live agents."""
    return sorted({address for pid in _pids(folder) if (address := _environment(pid).get("TRAINYARD_BIND"))})


def rank_of(address: str) -> int:
    """The process that trains below the agent at this address."""
    numbers = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    agents = {pid for pid in numbers if _environment(pid).get("TRAINYARD_BIND") == address}
    for pid in numbers:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # gone
            continue
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if fields["Name"] == "rank-0" and int(fields["PPid"]) in agents:
            return pid
    raise AssertionError(f"no rank below the agent at {address}")


def _pids(folder: Path) -> list[int]:
    run = Home(folder / ".trainyard").read_run(*KEY)
    return processes.living(f"{run['metadata']['uid']}/") if run else []


def _environment(pid: int) -> dict[str, str]:
    try:
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(variable.split("=", 1) for variable in variables if "=" in variable)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def _answers(url: str) -> str:
    """The page, empty while nobody answers."""
    try:
        return page(url)
    except OSError:
        return ""
