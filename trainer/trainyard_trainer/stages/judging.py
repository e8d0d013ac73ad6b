"""What is measured of a reward model once it is trained: its mean score, which is taken from all, and how good scores are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainyard_api.training_stages import RewardStage

from ..data.order import Order
from ..engine.engine import Engine
from ..group import Group
from ..preferences.judging import Judged, judge, means, report
from ..preferences.reward import scores

_CENTRED_ON = 512
"""Rows of each part's training split whose mean score becomes 0."""


@dataclass(frozen=True)
class JudgedRewards:
    """What is known of the model in the end."""

    means: list[float]
    """Each head's mean score of responses that it has learned from, which whoever loads the model takes from its scores."""
    metrics: dict[str, float]
    report: dict[str, Any]


def judge_rewards(
    stage: RewardStage,
    engine: Engine,
    objective: Any,
    rows: Mapping[str, Any],
    held_out_rows: Mapping[str, Any],
    group: Group,
    tell: Callable[[], None],
) -> JudgedRewards:
    """Judge all held-out pairs of each part, in the report by the prepare stage's name. A collective."""

    def judged(split: Any, most: int) -> Judged:
        numbers = Order(0, len(split)).samples(0, min(most, len(split))).tolist()
        return judge(
            lambda batch: engine.without_gradients(scores, batch),
            objective,
            split,
            numbers,
            group,
            stage.micro_batch,
            lambda _: tell(),
        )

    learned = [judged(rows[field], _CENTRED_ON) for field in stage.parts]
    reports = {}
    for field, part in stage.parts.items():
        split = held_out_rows[field]
        reports[part.data] = report(judged(split, len(split)))
    metrics: dict[str, float] = {}
    for name, (figures, _) in reports.items():
        metrics |= {f"{figure}_{name}" if stage.mixture else figure: value for figure, value in figures.items()}
    return JudgedRewards(
        means(learned), metrics, {name: figures | tables for name, (figures, tables) in reports.items()}
    )
