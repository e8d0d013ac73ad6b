"""The rules that hold across stages, in CEL and in Python: references, and the batch that all ranks share.

CEL's cost is estimated before it runs, from the bounds of the schema: lists made by `map` and strings made by `string`
count as boundless, so positions come from a literal list and texts from `format`. Both ways say the same words.
"""

import json
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from .model import Mistake, Model, Rule
from .stages import LANGUAGE_MODEL_KINDS, TRAINING_KINDS, StageKind

if TYPE_CHECKING:
    from .run import Spec
    from .training_stages import TrainingStage

_SHARING: tuple[StageKind, ...] = ("pretrain", "sft")
_DRAWING: tuple[StageKind, ...] = ("ppo", "grpo")
_PREPARED: tuple[StageKind, ...] = ("prepare",)
REFERENCES: tuple[tuple[StageKind, str, tuple[StageKind, ...]], ...] = (
    ("prepare", "tokenizer.stage", _PREPARED),
    ("prepare", "sources[].stage", ("collect",)),
    ("collect", "draw.models[]", LANGUAGE_MODEL_KINDS),
    *((kind, "data", _PREPARED) for kind in TRAINING_KINDS),
    *((kind, "mixture[].data", _PREPARED) for kind in TRAINING_KINDS),
    *((kind, "validation.sets[].data", _PREPARED) for kind in TRAINING_KINDS),
    *((kind, "model.stage", LANGUAGE_MODEL_KINDS) for kind in TRAINING_KINDS),
    ("ppo", "rewards[].stage", ("reward",)),
    ("grpo", "rewards[].stage", ("reward",)),
    ("evaluate", "model", TRAINING_KINDS),
    ("evaluate", "data", _PREPARED),
    ("export", "model", TRAINING_KINDS),
)
"""Which field of which kind names an earlier stage of which kinds; `[]` is every item of a list."""

MAX_STAGES = 32
LONGEST = {"sources": 32, "draw.models": 8, "mixture": 32, "validation.sets": 16, "rewards": 8}
"""Items of a list whose items name stages, at most, as the fields have it."""


def _positions(longest: int) -> str:
    """Every index that a list may have: CEL's macros tell items, not indices."""
    return f"[{','.join(map(str, range(longest)))}]"


_POSITIONS = _positions(MAX_STAGES)
"""Of `stages`."""


def references(kind: StageKind, settings: Model) -> dict[str, str]:
    """Each field of a stage's settings that names a stage → the name, as `mixture[0].data` → `corpus`."""
    return {
        path: name for of, field, _ in REFERENCES if of == kind for path, name in _named(settings, field.split("."))
    }


def _named(settings: Model, field: list[str]) -> Iterator[tuple[str, str]]:
    """(path, name) for each place that the field has in these settings; none where it isn't given."""
    head, *rest = field
    value = getattr(settings, head.removesuffix("[]"))
    if value is None:
        return
    name = head.removesuffix("[]")
    items = {f"{name}[{k}]": item for k, item in enumerate(value)} if head.endswith("[]") else {name: value}
    if not rest:
        yield from items.items()
        return
    for place, item in items.items():
        for path, named in _named(item, rest):
            yield f"{place}.{path}", named


def reference_rules() -> tuple[Rule, ...]:
    """For each field that names a stage: it names one of the right kind, that comes earlier."""
    return tuple(_reference_rule(*each) for each in REFERENCES)


def _reference_rule(kind: StageKind, field: str, kinds: tuple[StageKind, ...]) -> Rule:
    wanted = " or ".join(kinds)

    def mistakes(spec: "Spec") -> list[Mistake]:
        found = []
        for i, stage in enumerate(spec.stages):
            earlier = [s.name for s in spec.stages[:i] if s.kind in kinds]
            for path, name in _named(stage.settings, field.split(".")) if stage.kind == kind else ():
                if name not in earlier:
                    remedy = f"use one of {json.dumps(earlier)}" if earlier else f"put a {wanted} stage before it"
                    text = f"{name} is not an earlier {wanted} stage; {remedy}"
                    found.append((f"stages[{i}].{kind}.{path}", text))
        return found

    settings = f"s.{kind}"
    holder, listed, item = field.partition("[]")
    named = f"{settings}.{holder}[k]{item}" if listed else f"{settings}.{field}"
    sections = accumulate(holder.split("."), "{}.{}".format)
    given = " && ".join(f"has({settings}.{section})" for section in sections)
    if listed:
        given += f" && k < {settings}.{holder}.size()" + (f" && has({named})" if item else "")
    is_wanted = " || ".join(f"has(self.stages[j].{each})" for each in kinds)
    is_earlier = f"j < i && ({is_wanted})"
    wrong = f"{given} && !{_POSITIONS}.exists(j, {is_earlier} && self.stages[j].name == {named})"
    earlier = f"{_POSITIONS}.filter(j, {is_earlier}).map(j, self.stages[j].name)"
    text = (
        f"'stages[%d].{kind}.{field.replace('[]', '[%d]')}: %s is not an earlier {wanted} stage; %s'.format([i, "
        f"{'k, ' if listed else ''}{named}, {earlier}.size() > 0 ? 'use one of %s'.format([{earlier}]) : "
        f"'put a {wanted} stage before it'])"
    )
    if listed:
        positions = _positions(LONGEST[holder])
        text = f"{positions}.filter(k, {wrong}).map(k, {text})[0]"
        wrong = f"{positions}.exists(k, {wrong})"
    return _rule_of_stages(kind, wrong, text, f"{kind}.{field} must name an earlier {wanted} stage", mistakes)


def _rule_of_stages(
    kind: StageKind, wrong: str, text: str, message: str, mistakes: Callable[["Spec"], list[Mistake]]
) -> Rule:
    """No stage of a kind is wrong: CEL, about the stage `s` at i, with what is said of the first that is."""
    wrong_stage = f"i < self.stages.size() && has(self.stages[i].{kind}) && [self.stages[i]].exists(s, {wrong})"
    return Rule(
        cel=f"!{_POSITIONS}.exists(i, {wrong_stage})",
        message=message,
        mistakes=mistakes,
        field="stages",
        cel_message=f"{_POSITIONS}.filter(i, {wrong_stage}).map(i, [self.stages[i]].map(s, {text})[0])[0]",
    )


def indivisible_rules() -> tuple[Rule, ...]:
    """globalBatch is a multiple of microBatch × ranks, of which those count once that work on the same sequences, in each kind
    of stage that trains.
    """
    shared = (_unshared_rule(kind, field) for kind in _SHARING for field in ("sequenceParallel", "tensorParallel"))
    return (*shared, *map(_indivisible_rule, TRAINING_KINDS))


def _own(section: str, field: str) -> str:
    """Of the stage `s`: its own, or the run's."""
    return f"(has(s.{section}) ? s.{section}.{field} : self.{section}.{field})"


def _ranks(kind: StageKind) -> str:
    """Those of the stage `s`, of a kind, that learn."""
    workers = _own("workers", "count")
    learners = f"({workers} - s.{kind}.rollout.workers)" if kind in _DRAWING else workers
    gpus, processes = _own("resources", "gpus"), _own("resources", "processes")
    return f"({learners} * ({gpus} > 0 ? {gpus} : {processes}))"


def learner_rules() -> tuple[Rule, ...]:
    """Of workers that draw and those that learn there are both."""
    return tuple(map(_learner_rule, _DRAWING))


def _learner_rule(kind: StageKind) -> Rule:
    def mistakes(spec: "Spec") -> list[Mistake]:
        found = []
        for i, stage in enumerate(spec.stages):
            drawing = stage.training.drawing_workers if stage.kind == kind and stage.training else 0
            if drawing and drawing >= (workers := spec.stage_workers(stage)):
                text = f"{drawing} of {workers} workers leave none to learn; lower it, or raise workers.count"
                found.append((f"stages[{i}].{kind}.rollout.workers", text))
        return found

    drawing, workers = f"s.{kind}.rollout.workers", _own("workers", "count")
    text = (
        f"'stages[%d].{kind}.rollout.workers: %d of %d workers leave none to learn; lower it, or raise workers.count'"
        f".format([i, {drawing}, {workers}])"
    )
    message = f"{kind}.rollout.workers must leave workers that learn"
    return _rule_of_stages(kind, f"{drawing} > 0 && {drawing} >= {workers}", text, message, mistakes)


def _unshared_rule(kind: StageKind, field: str) -> Rule:
    """All ranks share what they share with as many others."""

    def shared(training: "TrainingStage") -> int:
        return training.sequence_parallel if field == "sequenceParallel" else training.tensor_parallel

    def mistakes(spec: "Spec") -> list[Mistake]:
        return [
            (f"stages[{i}].{kind}.{field}", f"does not divide the {ranks} ranks; use a divisor of that")
            for i, stage in enumerate(spec.stages)
            if stage.kind == kind and stage.training
            if (ranks := spec.ranks(stage)) % shared(stage.training)
        ]

    wrong = f"{_ranks(kind)} % s.{kind}.{field} != 0"
    text = (
        f"'stages[%d].{kind}.{field}: does not divide the %d ranks; use a divisor of that'.format([i, {_ranks(kind)}])"
    )
    message = f"{kind}.{field} must divide the number of ranks (workers × gpus or processes)"
    return _rule_of_stages(kind, wrong, text, message, mistakes)


def _indivisible_rule(kind: StageKind) -> Rule:
    def mistakes(spec: "Spec") -> list[Mistake]:
        found = []
        for i, stage in enumerate(spec.stages):
            if stage.kind != kind or stage.training is None:
                continue
            ranks = spec.learners(stage) // stage.training.sharers
            micro, batch = stage.training.micro_batch, stage.training.global_batch
            unit = ranks * micro
            if unit > 0 and batch % unit:
                below, above = batch // unit * unit, (batch // unit + 1) * unit
                use = f"{below} or {above}" if below else f"{above}"
                text = f"{batch} is not divisible by {ranks} ranks × microBatch {micro}; use {use}"
                found.append((f"stages[{i}].{kind}.globalBatch", text))
        return found

    settings = f"s.{kind}"
    batch, micro = f"{settings}.globalBatch", f"{settings}.microBatch"
    ranks = f"[{_ranks(kind)} / ({settings}.sequenceParallel * {settings}.tensorParallel)]"
    wrong = f"{ranks}.exists(r, r > 0 && {batch} % (r * {micro}) != 0)"
    text = (
        f"{ranks}.map(r, [r * {micro}].map(unit, "
        f"'stages[%d].{kind}.globalBatch: %d is not divisible by %d ranks × microBatch %d; use %s'.format([i, {batch}, r, "
        f"{micro}, {batch} / unit > 0 ? '%d or %d'.format([{batch} / unit * unit, ({batch} / unit + 1) * unit]) : "
        "'%d'.format([unit])]))[0])[0]"
    )
    message = (
        f"{kind}.globalBatch must be divisible by ranks (workers × gpus or processes) × microBatch / those that share "
        "sequences or layers"
    )
    return _rule_of_stages(kind, wrong, text, message, mistakes)


def failure_rules_name_stages() -> Rule:
    """The stages that a rule of spec.recovery names are there: one that is misspelt would never match."""

    def mistakes(spec: "Spec") -> list[Mistake]:
        names = [stage.name for stage in spec.stages]
        return [
            (f"recovery.rules[{i}].stages", f"{name} is not a stage; use one of {json.dumps(names)}")
            for i, each in enumerate(spec.recovery.failure_rules)
            for name in each.stages or ()
            if name not in names
        ]

    named = "!has(r.stages) || r.stages.all(n, self.stages.exists(s, s.name == n))"
    return Rule(
        cel=f"!has(self.recovery) || !has(self.recovery.rules) || self.recovery.rules.all(r, {named})",
        message="recovery.rules: a rule names a stage that the run does not have; use names of its stages",
        mistakes=mistakes,
        field="recovery",
    )
