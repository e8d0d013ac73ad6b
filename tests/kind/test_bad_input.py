"""What is wrong is said, with the field and the remedy: at `kubectl apply` where the API server can tell, else in status."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from conditions import eventually
from kind.bad_rewards import BAD_REWARDS
from kind.bad_specs import BAD_SPECS, GOOD, changed
from kind.cluster import Namespace, Run, kubectl
from kind.runs import small_run

MISTAKES = BAD_SPECS | BAD_REWARDS


@pytest.mark.parametrize("mistake", MISTAKES)
def test_apply_refuses(mistake: str, namespace: Namespace) -> None:
    changes, fragments = MISTAKES[mistake]
    answer = kubectl(
        "-n", namespace.name, "create", "--dry-run=server", "-f", "-", given=json.dumps(changed(changes)), check=False
    )
    assert answer.returncode != 0, f"accepted: {answer.stdout}"
    for fragment in fragments:
        assert fragment in answer.stderr


def test_apply_takes_the_run_that_those_mistakes_were_made_in(namespace: Namespace) -> None:
    kubectl("-n", namespace.name, "create", "--dry-run=server", "-f", "-", given=json.dumps(GOOD))


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", 1), ("image", "localhost:5001/other:1"), ("template", {"spec": {"nodeSelector": {"pool": "b"}}})],
)
def test_what_a_run_makes_can_not_be_changed_in_flight(field: str, value: Any, namespace: Namespace) -> None:
    manifest = small_run(f"fixed-{field}", suspend=True, template={"spec": {"nodeSelector": {"pool": "a"}}})
    namespace.apply(manifest)
    manifest["spec"][field] = value
    answer = kubectl("-n", namespace.name, "apply", "-f", "-", given=json.dumps(manifest), check=False)
    assert answer.returncode != 0
    assert f"spec.{field}" in answer.stderr
    assert f"{field} can't change in flight" in answer.stderr
    assert "delete the run, whose artifacts stay, and apply a new one" in answer.stderr


def with_sources(manifest: dict[str, Any], **source: Any) -> dict[str, Any]:
    """The run, reading this source instead."""
    changed = copy.deepcopy(manifest)
    changed["spec"]["stages"][0]["prepare"]["sources"] = [source]
    return changed


def failed(reason: str, *fragments: str) -> Callable[[dict[str, Any]], bool]:
    """The run is Failed for this reason, and its message has all fragments."""
    return lambda status: (
        (status.get("phase"), status.get("reason")) == ("Failed", reason)
        and all(fragment in status["message"] for fragment in fragments)
    )


def waits(reason: str, *fragments: str) -> Callable[[dict[str, Any]], bool]:
    """The run waits for this reason, and says so with all fragments."""
    return lambda status: (
        (status.get("waiting") or {}).get("reason") == reason
        and all(fragment in status["waiting"]["message"] for fragment in fragments)
    )


STUCK: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = {
    "data that isn't there": (
        with_sources(small_run("no-data"), path="nowhere/at-all"),
        failed("PermanentError", "sources[0].path", "nowhere/at-all"),
    ),
    "an image that can't be pulled": (
        small_run("no-image", image="localhost:5001/no-such-image:1"),
        waits("ImagePullFailed", "spec.image: localhost:5001/no-such-image:1"),
    ),
    "an image name that is none": (
        small_run("bad-image", image="Not An Image"),
        failed("ImagePullFailed", "spec.image: Not An Image"),
    ),
    "more than the nodes can hold": (
        small_run("too-big", resources={"cpu": "64", "memory": "1Gi"}),
        waits("WaitingForCapacity", "cpu", "spec.workers", "spec.resources"),
    ),
    "a claim that isn't there": (
        small_run("no-claim", storage={"uri": "file:///storage", "claimName": "missing"}),
        waits("WaitingForCapacity", "missing", "spec.storage.claimName"),
    ),
    "storage that can't be written": (
        small_run("read-only", storage={"uri": "file:///opt/elsewhere"}),
        failed("PermanentError", "storage", "/opt/elsewhere"),
    ),
    "a pod that the API server refuses": (
        small_run("refused", template={"spec": {"nodeSelector": {"no key": "x"}}}),
        waits("PodRefused", "spec.nodeSelector"),
    ),
    "a template that reaches into the node": (
        small_run("nosy", template={"spec": {"hostPID": True}}),
        failed("InvalidSpec", "spec.template.spec.hostPID"),
    ),
}


@pytest.fixture(scope="module")
def stuck(namespace: Namespace) -> dict[str, Run]:
    """All of them at once: they wait side by side."""
    return {name: namespace.apply(manifest) for name, (manifest, _) in STUCK.items()}


@pytest.mark.parametrize("name", STUCK)
def test_status_names_field_and_remedy(name: str, stuck: dict[str, Run]) -> None:
    run, (_, expected) = stuck[name], STUCK[name]
    eventually(lambda: expected(run.status), 90, name, detail=lambda: json.dumps(run.status, indent=1))
