"""The rules that hold across stages, in CEL and in Python: references, and the batch that all ranks share.

CEL's cost is estimated before it runs, from the bounds of the schema: lists made by `map` and strings made by `string`
count as boundless, so positions come from a literal list and texts from `format`. Both ways say the same words.
"""

import json
from typing import TYPE_CHECKING

from .model import Mistake, Rule
from .stages import StageKind

if TYPE_CHECKING:
    from .run import Spec

REFERENCES: tuple[tuple[StageKind, str, StageKind], ...] = (
    ("pretrain", "data", "prepare"),
    ("evaluate", "model", "pretrain"),
    ("evaluate", "data", "prepare"),
    ("export", "model", "pretrain"),
)
"""Which field of which kind names an earlier stage of which kind."""

MAX_STAGES = 32
_POSITIONS = f"[{', '.join(map(str, range(MAX_STAGES)))}]"
"""Every index that `stages` may have: CEL's macros tell items, not indices."""


def reference_rules() -> tuple[Rule, ...]:
    """For each field that names a stage: it names one of the right kind, that comes earlier."""

    def reference(kind: StageKind, field: str, wanted: StageKind) -> Rule:
        def mistakes(spec: "Spec") -> list[Mistake]:
            found = []
            for i, stage in enumerate(spec.stages):
                earlier = [s.name for s in spec.stages[:i] if s.kind == wanted]
                if stage.kind == kind and stage.inputs[field] not in earlier:
                    text = f"{stage.inputs[field]} is not an earlier {wanted} stage"
                    remedy = f"use one of {json.dumps(earlier)}" if earlier else f"put a {wanted} stage before it"
                    found.append((f"stages[{i}].{kind}.{field}", f"{text}; {remedy}"))
            return found

        stage, named = "self.stages[i]", f"self.stages[i].{kind}.{field}"
        earlier = f"{_POSITIONS}.filter(j, j < i && has(self.stages[j].{wanted})).map(j, self.stages[j].name)"
        wrong = (
            f"(i < self.stages.size() && has({stage}.{kind}) && !{_POSITIONS}.exists(j, "
            f"j < i && has(self.stages[j].{wanted}) && self.stages[j].name == {named}))"
        )
        return Rule(
            cel=f"!{_POSITIONS}.exists(i, {wrong})",
            message=f"{kind}.{field} must name an earlier {wanted} stage",
            mistakes=mistakes,
            field="stages",
            cel_message=f"{_POSITIONS}.filter(i, {wrong}).map(i, 'stages[%d].{kind}.{field}: "
            f"%s is not an earlier {wanted} stage; %s'.format([i, {named}, {earlier}.size() > 0 ? "
            f"'use one of %s'.format([{earlier}]) : 'put a {wanted} stage before it']))[0]",
        )

    return tuple(reference(*each) for each in REFERENCES)


def _indivisible(spec: "Spec") -> list[Mistake]:
    found = []
    for i, stage in enumerate(spec.stages):
        if stage.pretrain is None:
            continue
        ranks, micro, batch = spec.ranks(stage), stage.pretrain.micro_batch, stage.pretrain.global_batch
        unit = ranks * micro
        if batch % unit:
            below, above = batch // unit * unit, (batch // unit + 1) * unit
            use = f"{below} or {above}" if below else f"{above}"
            text = f"{batch} is not divisible by {ranks} ranks × microBatch {micro}; use {use}"
            found.append((f"stages[{i}].pretrain.globalBatch", text))
    return found


def indivisible_rule() -> Rule:
    """globalBatch is a multiple of world size × microBatch."""

    def own(section: str, field: str) -> str:
        return f"(has(self.stages[i].{section}) ? self.stages[i].{section}.{field} : self.{section}.{field})"

    pretrain = "self.stages[i].pretrain"
    batch, micro = f"{pretrain}.globalBatch", f"{pretrain}.microBatch"
    ranks = (
        f"({own('workers', 'count')} * "
        f"({own('resources', 'gpus')} > 0 ? {own('resources', 'gpus')} : {own('resources', 'processes')}))"
    )
    unit = f"({ranks} * {micro})"
    wrong = f"(i < self.stages.size() && has({pretrain}) && {batch} % {unit} != 0)"
    below, above = f"{batch} / {unit} * {unit}", f"({batch} / {unit} + 1) * {unit}"
    return Rule(
        cel=f"!{_POSITIONS}.exists(i, {wrong})",
        message="pretrain.globalBatch must be divisible by ranks (workers × gpus or processes) × microBatch",
        mistakes=_indivisible,
        field="stages",
        cel_message=f"{_POSITIONS}.filter(i, {wrong}).map(i, 'stages[%d].pretrain.globalBatch: "
        f"%d is not divisible by %d ranks × microBatch %d; use %s'.format([i, {batch}, {ranks}, {micro}, "
        f"{below} > 0 ? '%d or %d'.format([{below}, {above}]) : '%d'.format([{above}])]))[0]",
    )
