"""The grace period of a pod follows from what saving has been measured to take."""

from typing import Any

import pytest
from builders import NOW, a_run
from trainyard_api.status import Phase
from trainyard_operator.decide.grace import grace_seconds
from trainyard_operator.decide.objects import pod_manifest
from trainyard_operator.decide.observation import format_time
from trainyard_operator.decide.template import template_mistakes


def measured(durable: float | None, step: float = 0.5, stall: float = 0.1, stage: str = "base") -> dict[str, Any]:
    """The fields of a status that has a checkpoint of `stage`."""
    uri = f"file:///storage/team/tiny/{stage}/checkpoints/step-00000050"
    checkpoint = {"step": 50, "uri": uri, "time": format_time(NOW), "stall_seconds": stall, "durable_seconds": durable}
    return {"checkpoint": checkpoint, "progress": {"step": 50, "step_seconds": step}}


CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any], int]] = {
    "before anything is known a pod gets a minute": ({}, "base", {}, 60),
    "a stage without anything to save gets the least": ({}, "corpus", {}, 30),
    "so does one whose predecessor has been measured": ({}, "out", measured(500), 30),
    "twice a step, a stall, and two saves one after the other": ({}, "base", measured(20), 2 * (0.6 + 40) + 10),
    "quick saves get the least": ({}, "base", measured(0.1), 30),
    "steps count as well": ({}, "base", measured(5, step=120), 2 * (120.1 + 10) + 10),
    "no measurement gives more than half an hour": ({}, "base", measured(4_000), 1_800),
    "a checkpoint of another stage says nothing of this one": ({}, "base", measured(400, stage="corpus"), 60),
    "a checkpoint of an older version, that has no times": ({}, "base", measured(None), 60),
    "who gives a period gets it": ({"recovery": {"graceSeconds": 5_000}}, "base", measured(20), 5_000),
}


@pytest.mark.parametrize(("spec", "stage", "status", "seconds"), CASES.values(), ids=CASES.keys())
def test_a_pod_is_given_what_it_needs(spec: dict[str, Any], stage: str, status: dict[str, Any], seconds: float) -> None:
    seen = a_run(**spec).in_stage(stage, Phase.PENDING, **status).seen()
    assert seconds <= grace_seconds(seen) < seconds + 1


def test_kubelet_and_agent_are_told_the_same() -> None:
    pod = pod_manifest(a_run().in_stage(phase=Phase.PENDING, **measured(20)).seen(), 0)
    environment = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
    assert environment["TRAINYARD_GRACE_SECONDS"] == str(pod["spec"]["terminationGracePeriodSeconds"]) == "92"


def test_a_template_is_no_place_for_a_grace_period() -> None:
    run = a_run(template={"spec": {"terminationGracePeriodSeconds": 5}}).seen().run
    [mistake] = template_mistakes(run.spec)
    assert mistake.startswith("spec.template.spec.terminationGracePeriodSeconds: ")
    assert mistake.endswith("use recovery.graceSeconds")
