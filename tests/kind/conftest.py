"""Fixtures on the cluster that `make kind-up` has made: a namespace a module, and the pod of the operator that acts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from kind.cluster import SYSTEM, Namespace, get, kubectl


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """Fail at once, and say what to do, where there is no cluster: these tests are never skipped."""
    answer = kubectl("-n", SYSTEM, "rollout", "status", "deployment/trainyard", "--timeout=90s", check=False)
    assert answer.returncode == 0, f"no cluster with Trainyard in it; run make kind-up first: {answer.stderr}"


@pytest.fixture(scope="module")
def namespace(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace with storage, named after the module, gone afterwards."""
    found = Namespace(re.sub(r"[^a-z]+", "-", request.module.__name__.rpartition(".")[2]).strip("-"))
    found.create()
    yield found
    found.delete()


@pytest.fixture
def operator_pod() -> str:
    """The name of the pod of the operator that acts."""
    return str(get("-n", SYSTEM, "lease", "trainyard")["spec"]["holderIdentity"])


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig whose current context is the test cluster's."""
    file = tmp_path_factory.mktemp("kube") / "config"
    file.write_text(kubectl("config", "view", "--minify", "--flatten").stdout)
    return file
