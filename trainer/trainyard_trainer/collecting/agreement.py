"""How far people agree with each other and with themselves, and who may not have read what they judged.

A unit is a pair of an item's responses, its label nominal: the first is better, the second, a tie, both bad. So pairs and
rankings count alike, and sides as they were on the page play no part. Intervals are bootstraps over units.

An annotator is flagged, not left out: what to do about it is for people to say.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
from sqlalchemy import select

from .coefficients import Estimate, alpha, kappa, share
from .database import Database
from .scores import Game, scores
from .tables import annotators, items, tasks, votes

LABELS = ("first", "second", "tie", "both_bad")
FEWEST_VOTES = 20
"""Of an annotator, before anything is said about them."""
UNLIKELY = 1e-3
"""Of a fair coin: how unlikely an annotator's sides must be to be flagged."""
HASTY_SECONDS = 2.0
UNSTEADY = 0.6
"""Self-agreement below which, on ten repeats or more, an annotator is flagged."""

Unit = tuple[str, int, int]


def report(database: Database) -> dict[str, Any]:
    """What agreement.json holds: agreement with intervals, each annotator's figures and flags, scores of the models."""
    given = list(_votes(database))
    first = [vote for vote in given if vote["repeats"] is None and vote["verdict"] != "skip"]
    labels = _labels(first)
    tally = database.progress()
    return {
        "judgements": tally.done,
        "wanted": tally.wanted,
        "verdicts": {
            name: sum(vote["verdict"] == name for vote in given) for name in ("prefer", "tie", "both_bad", "skip")
        },
        "seconds_median": _median(vote["seconds"] for vote in first),
        "alpha": _alpha(labels).told(),
        "kappa": [
            {"annotators": [one, other], **estimate.told()}
            for one, other, estimate in _kappas(labels)
            if estimate.units
        ],
        "annotators": _of_annotators(given),
        "scores": scores(list(_games(database, first))),
    }


def side_is_unlikely(left: int, total: int) -> float:
    """Two-sided probability of a share of sides as uneven as this, or more, if each side were equally likely."""
    tail = sum(math.comb(total, k) for k in range(min(left, total - left) + 1)) / 2**total
    return min(1.0, 2 * tail)


def _votes(database: Database) -> Iterator[dict[str, Any]]:
    """Votes that count, repeats and skips among them, oldest first."""
    query = (
        select(votes, tasks.c.repeats, annotators.c.rule)
        .join(tasks, votes.c.task == tasks.c.id)
        .join(annotators, votes.c.annotator == annotators.c.name)
        .where(votes.c.undone.is_(None))
        .order_by(votes.c.id)
    )
    with database.reading() as connection:
        for row in connection.execute(query):
            yield row._asdict()


def _labels_of(vote: dict[str, Any]) -> Iterator[tuple[Unit, int]]:
    """The label of each pair of the responses that a vote is about."""
    ranks = vote["ranks"]
    for a, b in combinations(range(len(ranks)), 2):
        if vote["verdict"] == "both_bad":
            label = "both_bad"
        else:
            label = "tie" if ranks[a] == ranks[b] else "first" if ranks[a] < ranks[b] else "second"
        yield (vote["item"], a, b), LABELS.index(label)


def _labels(given: Iterable[dict[str, Any]]) -> dict[str, dict[Unit, int]]:
    """Each annotator's labels."""
    found: dict[str, dict[Unit, int]] = defaultdict(dict)
    for vote in given:
        found[vote["annotator"]].update(_labels_of(vote))
    return found


def _matrix(labels: dict[str, dict[Unit, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels of annotators × units, -1 where there is none."""
    units = {unit: number for number, unit in enumerate(sorted({unit for each in labels.values() for unit in each}))}
    matrix_AU = np.full((len(labels), len(units)), -1, dtype=np.int64)
    for row, each in enumerate(labels.values()):
        for unit, label in each.items():
            matrix_AU[row, units[unit]] = label
    return matrix_AU


def _alpha(labels: dict[str, dict[Unit, int]]) -> Estimate:
    return alpha(_matrix(labels)) if labels else share(0, 0)


def _kappas(labels: dict[str, dict[Unit, int]]) -> Iterator[tuple[str, str, Estimate]]:
    """κ of each two annotators who judged some of the same."""
    for one, other in combinations(sorted(labels), 2):
        common = labels[one].keys() & labels[other].keys()
        if common:
            matrix_2U = _matrix({name: {unit: labels[name][unit] for unit in common} for name in (one, other)})
            yield one, other, kappa(matrix_2U[0], matrix_2U[1])


def _of_annotators(given: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures and flags of each."""
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for vote in given:
        by_name[vote["annotator"]].append(vote)
    original = {vote["task"]: vote for vote in given if vote["verdict"] != "skip"}
    return {name: _of_one(own, original) for name, own in sorted(by_name.items())}


def _of_one(own: list[dict[str, Any]], original: dict[int, dict[str, Any]]) -> dict[str, Any]:
    judged = [vote for vote in own if vote["verdict"] != "skip"]
    sides = [
        vote["ranks"][vote["shown"][0]] == 0
        for vote in judged
        if vote["verdict"] == "prefer" and len(vote["ranks"]) == 2
    ]
    again = [
        dict(_labels_of(vote)) == dict(_labels_of(original[vote["repeats"]]))
        for vote in judged
        if vote["repeats"] in original
    ]
    seconds = _median(vote["seconds"] for vote in judged)
    flags = []
    if len(sides) >= FEWEST_VOTES and side_is_unlikely(sum(sides), len(sides)) < UNLIKELY:
        side, count = ("left", sum(sides)) if 2 * sum(sides) > len(sides) else ("right", len(sides) - sum(sides))
        flags.append(f"picks the {side} side in {count} of {len(sides)}: sides are random, so a reader would not")
    if len(judged) >= FEWEST_VOTES and seconds is not None and seconds < HASTY_SECONDS:
        flags.append(f"takes {seconds:.1f} s a vote: less than reading does")
    if len(again) >= 10 and sum(again) / len(again) < UNSTEADY:
        flags.append(f"says the same again in {sum(again)} of {len(again)} blind repeats")
    if len(judged) >= FEWEST_VOTES and not any(vote["verdict"] == "prefer" for vote in judged):
        flags.append(f"prefers nothing in {len(judged)} votes")
    return {
        "rule": own[0]["rule"],
        "votes": len(judged),
        "skips": len(own) - len(judged),
        "seconds_median": seconds,
        "left": share(sum(sides), len(sides)).told(),
        "self_agreement": share(sum(again), len(again)).told(),
        "notes": sum(bool(vote["note"]) for vote in own),
        "flags": flags,
    }


def _games(database: Database, first: list[dict[str, Any]]) -> Iterator[Game]:
    """Judgements as games between the models that wrote the responses."""
    with database.reading() as connection:
        wrote = {
            row.id: [response["model"] for response in row.content["responses"]]
            for row in connection.execute(select(items.c.id, items.c.content))
        }
    for vote in first:
        for (item, a, b), label in _labels_of(vote):
            if wrote[item][a] and wrote[item][b]:
                yield Game(item, wrote[item][a], wrote[item][b], min(label, 2))


def _median(seconds: Iterable[float]) -> float | None:
    found = list(seconds)
    return round(statistics.median(found), 2) if found else None
