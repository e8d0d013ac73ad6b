"""The scraped run that all tests of queries share."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conditions import eventually
from prometheus_client import generate_latest
from rules.scraping import Prometheus, page, rank_of, scraping, trained, trainyard
from trainyard_api.names import AGENT_PORT
from trainyard_operator.observe.metrics import Metrics


def prometheus_program(name: str) -> Path:
    """One of Debian's Prometheus, installed or unpacked by `make test`."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:.venv/prometheus/usr/bin")
    assert found, (
        "these tests ask a real Prometheus; `make prometheus` unpacks Debian's, or: apt-get install prometheus"
    )
    return Path(found).absolute()


@pytest.fixture(scope="session")
def prometheus_binary() -> Path:
    """The server."""
    return prometheus_program("prometheus")


@pytest.fixture(scope="module")
def prometheus(prometheus_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus after some scrapes of the run, whose rank was killed once, and which trains on."""
    folder = tmp_path_factory.mktemp("prometheus")
    targets = folder / "agents.json"
    with trainyard(folder) as operator_url, scraping(prometheus_binary, folder, operator_url, targets) as url:
        agent = trained(folder, targets, steps=60)
        before = page(f"http://{agent}:{AGENT_PORT}/metrics")
        os.kill(rank_of(agent), signal.SIGKILL)
        of_agent = f'{{instance="{agent}:{AGENT_PORT}"}}'
        for shown in (
            f"trainyard_held_out_loss{of_agent}",
            f"trainyard_checkpoint_stall_seconds{of_agent}",
            'rate(trainyard_recovery_seconds_bucket{part="reform"}[30s])',
        ):
            eventually(lambda query=shown: Prometheus(url).query(query), 60, f"scrapes that show {shown}")
        trained(folder, targets, steps=60)
        after = page(f"http://{agent}:{AGENT_PORT}/metrics")
        pages = page(f"{operator_url}/metrics") + before + after + of_a_deployment()
        yield Prometheus(url, frozenset(re.findall(r"^# TYPE (\S+)", pages, re.MULTILINE)))


def of_a_deployment() -> str:
    """What an operator on a cluster exports beside what `trainyard run` does."""
    metrics = Metrics()
    metrics.show_lags(lambda: 0.0, lambda: 0.0)
    metrics.show_leadership(lambda: True, "trainyard")
    return generate_latest(metrics.registry).decode()
