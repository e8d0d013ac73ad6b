"""What `trainyard run` says to a wrong spec: the table that the kind suite holds against a real API server."""

import copy

import pytest
from kind.bad_rewards import BAD_REWARDS
from kind.bad_specs import BAD_SPECS, GOOD, Changes, changed
from pydantic import ValidationError
from trainyard_api.model import explain_errors
from trainyard_api.run import TrainingRun
from trainyard_api.status import Status


def test_the_good_run_is_accepted() -> None:
    assert TrainingRun.read(GOOD).spec.stages[1].kind == "pretrain"


MISTAKES = BAD_SPECS | BAD_REWARDS


@pytest.mark.parametrize(("changes", "fragments"), MISTAKES.values(), ids=MISTAKES.keys())
def test_each_mistake_is_refused_with_field_and_remedy(changes: Changes, fragments: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as refusal:
        TrainingRun.read(changed(changes))
    said = "\n".join(explain_errors(refusal.value))
    assert [fragment for fragment in fragments if fragment not in said] == [], said


def test_all_mistakes_are_named_at_once() -> None:
    manifest = changed({"spec.stages.1.pretrain.steps": "ten", "spec.workers.count": 0})
    with pytest.raises(ValidationError) as refusal:
        TrainingRun.read(manifest)
    assert [line.split(":")[0] for line in explain_errors(refusal.value)] == [
        "spec.workers.count",
        "spec.stages[1].pretrain.steps",
    ]


def test_a_key_without_a_value_is_a_key_left_out() -> None:
    manifest = changed({"spec.image": None, "spec.seed": None, "spec.stages.1.pretrain.schedule": None})
    assert TrainingRun.read(manifest) == TrainingRun.read(GOOD)


def test_whole_numbers_are_quantities_too() -> None:
    assert TrainingRun.read(changed({"spec.resources": {"cpu": 2}})).spec.resources.cpu == "2"


def test_a_stored_run_of_a_newer_version_is_read_without_its_new_fields() -> None:
    manifest = copy.deepcopy(GOOD)
    manifest["spec"]["novelty"] = {"on": True}
    manifest["spec"]["stages"][1]["pretrain"]["optimizer"] = {"learningRate": 0.01, "novelty": 1}
    manifest["status"] = {"phase": "Running", "reason": "Training", "attempt": 3, "novelty": []}
    run = TrainingRun.read_stored(manifest)
    assert run.spec.stages[1].pretrain is not None
    assert run.spec.stages[1].pretrain.optimizer.learning_rate == 0.01
    assert run.status is not None
    assert run.status.attempt == 3


def test_a_run_survives_the_wire() -> None:
    run = TrainingRun.read(GOOD)
    assert TrainingRun.read(run.wire()) == run


def test_an_empty_status_is_that_of_a_run_just_seen() -> None:
    assert Status.read_stored({}) == Status()
