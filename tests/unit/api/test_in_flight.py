"""What may change of a spec while its run lasts: held against the CEL rules, and against what `trainyard run` does."""

import copy
from typing import Any

import cel
import pytest
from cel.stdlib import add_stdlib_to_context
from kind.bad_specs import GOOD
from trainyard_api.crd import custom_resource_definition
from trainyard_api.in_flight import fixed_differences
from trainyard_api.run import Spec, TrainingRun

SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
TRANSITIONS = [each for each in SCHEMA["x-kubernetes-validations"] if "oldSelf" in each["rule"]]
OLD = TrainingRun.read(GOOD).wire()

CHANGES: dict[str, Any] = {
    "image": "trainer:2",
    "storage": {"uri": "file:///elsewhere"},
    "workers": {"count": 8},
    "resources": {"cpu": "7"},
    "template": {"spec": {"nodeSelector": {"pool": "b"}}},
    "recovery": {"maxFailures": 3},
    "suspend": True,
    "activeDeadlineSeconds": 60,
    "ttlSecondsAfterFinished": 0,
    "seed": 1,
    "stages": [*OLD["spec"]["stages"], {"name": "more", "export": {"model": "base"}}],
}
FREE = {"recovery", "suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished"}


def refused(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Messages of the rules that forbid the change."""
    messages = []
    for each in TRANSITIONS:
        context = cel.Context()
        add_stdlib_to_context(context)
        context.add_variable("self", new)
        context.add_variable("oldSelf", old)
        if cel.compile(each["rule"]).execute(context) is not True:
            messages.append(each["message"])
    return messages


def test_there_is_a_case_for_each_field() -> None:
    assert set(CHANGES) == {field.alias or name for name, field in Spec.model_fields.items()}


def test_a_run_that_is_applied_again_is_no_change() -> None:
    assert refused(OLD, copy.deepcopy(OLD)) == []


@pytest.mark.parametrize("field", CHANGES)
def test_a_change_is_let_in_or_refused_with_the_remedy(field: str) -> None:
    changed = {**OLD, "spec": {**OLD["spec"], field: CHANGES[field]}}
    back = refused(changed, OLD)
    there = refused(OLD, changed)
    differences = fixed_differences(TrainingRun.read_stored(changed).spec, TrainingRun.read_stored(OLD).spec)
    if field in FREE:
        assert (there, back, differences) == ([], [], [])
        return
    assert differences == [field]
    assert there == back
    [message] = there
    assert message.startswith(f"{field} can't change in flight, only activeDeadlineSeconds, recovery, suspend and")
    assert message.endswith("delete the run, whose artifacts stay, and apply a new one")
