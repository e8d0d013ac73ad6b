"""Fixtures on the cluster that `make kind-up` has made: a namespace a module, the pod of the operator that acts, and runs that
nothing happens to, one for all modules that compare with it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conditions import eventually
from kind.cluster import SYSTEM, Namespace, Run, get, kubectl
from kind.runs import STEPS, seldom_saving, small_run


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


@pytest.fixture(scope="session")
def calm() -> Iterator[Namespace]:
    """A namespace of runs that nothing happens to."""
    found = Namespace("calm")
    found.create()
    yield found
    found.delete()


@pytest.fixture(scope="session")
def story(calm: Namespace) -> list[dict[str, str]]:
    """All that `kubectl get trainingruns` has shown of the run that is `undisturbed`, from its first moment to its end."""
    run, told = calm.apply(small_run("undisturbed", steps=STEPS)), list[dict[str, str]]()

    def finished() -> bool:
        row = run.columns()
        if not told or row != told[-1]:
            told.append(row)
        return row["PHASE"] in ("Succeeded", "Failed")

    eventually(finished, 300, "the run ends", detail=lambda: str(told))
    return told


@pytest.fixture(scope="session")
def undisturbed(calm: Namespace, story: list[dict[str, str]]) -> Run:
    """Four workers, STEPS steps, that nothing happened to."""
    assert story[-1]["PHASE"] == "Succeeded", story
    return Run(calm, "undisturbed")


@pytest.fixture(scope="session")
def undisturbed_pair(calm: Namespace) -> Run:
    """Two workers that saved at the end alone, and that nothing happened to."""
    run = calm.apply(seldom_saving("undisturbed-pair"))
    run.until(lambda s: s.get("phase") == "Succeeded", 300, "succeeds")
    return run


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
