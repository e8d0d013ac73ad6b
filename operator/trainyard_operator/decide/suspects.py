"""The ledger of suspect nodes: failures that are put down to a node keep pods off it for a while.

Each run's status is its part of the ledger, so it outlives the operator and goes with the run; what other runs say is seen
as well. A run believes what its namespace says for certain, or two runs of it suspect, and what two namespaces say: what a
pod reports is its tenant's word, and no tenant may take a node away from another one. Whoever may annotate the run may forgive
a node (`trainyard nodes forgive`). A node that is lost is excluded for that run alone: for the others Kubernetes knows.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from itertools import takewhile

from pydantic import TypeAdapter, ValidationError
from trainyard_api.names import ANNOTATION_FORGIVEN
from trainyard_api.pattern import found
from trainyard_api.status import ExcludedNode, Failure, Reason, Scope, Status

from .causes import End
from .in_place import comes_back
from .observation import Observation, Pod, format_time, parse_time

HARDWARE = "|".join(
    (
        "(?i)uncorrectable (ECC|NVLink) error",
        "hardware stack error",
        "over nvlink or a hardware error",
        "fallen off the bus",
        "GPU is lost",
    )
)
"""What CUDA, NVML and the driver say of a GPU or link that is broken, and of nothing that a program may have done itself."""
SUSPECT_TIMES = 3
"""So many crashes in a row that began on one node of several: by chance that is 1 in 16 on four nodes, 1 in 4,096 on 64."""
KEPT = 32
"""Nodes in a status."""
_FORGIVEN = TypeAdapter(dict[str, str])


def suspect(seen: Observation, end: End, failures: tuple[Failure, ...]) -> ExcludedNode | None:
    """The node that the last of the failures is put down to, if it is to be kept off."""
    last = failures[-1]
    if not last.node:
        return None
    if end.cause == Reason.NODE_LOST:
        return take_out(seen, last.node, end.cause, end.message)
    if end.cause == Reason.PREFLIGHT_FAILED or found(HARDWARE, end.text):
        return take_out(seen, last.node, end.cause, end.message, "Namespace")
    if not _of_the_node(last) or len({pod.node for pod in seen.group.values() if pod.node}) < 2:
        return None
    since = next((each.time for each in seen.status.excluded_nodes if each.node == last.node), "")
    own = [each for each in failures if _of_the_node(each)]
    times = sum(1 for each in takewhile(lambda each: each.node == last.node, reversed(own)) if each.time > since)
    if times < SUSPECT_TIMES:
        return None
    text = f"{times} failures in a row began here, and the group has other nodes; last: {end.message}"
    return take_out(seen, last.node, end.cause, text, "Suspected")


def _of_the_node(failure: Failure) -> bool:
    return failure.crashed or failure.cause == Reason.AGENT_SILENT


def take_out(seen: Observation, node: str, cause: Reason, why: str, scope: Scope = "Run") -> ExcludedNode | None:
    """A node that pods are to keep off from now on; None where that is not wanted, or there is no other."""
    seconds = seen.run.spec.recovery.exclude_node_seconds
    if not seconds or not seen.settings.excludes_nodes:
        return None
    until = format_time(seen.now + timedelta(seconds=seconds))
    return ExcludedNode(node=node, cause=cause, message=why, time=format_time(seen.now), until=until, scope=scope)


def entered(seen: Observation, entry: ExcludedNode | None) -> tuple[ExcludedNode, ...]:
    """The run's part of the ledger, with an entry more; a node has one, its last."""
    if entry is None:
        return seen.status.excluded_nodes
    others = [each for each in seen.status.excluded_nodes if each.node != entry.node]
    return (*others, entry)[-KEPT:]


def in_force(seen: Observation) -> tuple[ExcludedNode, ...]:
    """The entries of this run that hold: neither over nor forgiven."""
    return tuple(each for each in unforgiven(seen.status, seen.run.metadata.annotations) if _lasts(seen, each))


def _lasts(seen: Observation, entry: ExcludedNode) -> bool:
    return bool(seen.run.spec.recovery.exclude_node_seconds) and seen.seconds_since(entry.until) < 0


def stays(seen: Observation, pod: Pod) -> bool:
    """Whether a pod will be there for the next attempt too: it lives or comes back, and not on a suspect node."""
    suspects = {each.node for each in in_force(seen)}
    return seen.stays(pod) and pod.node not in suspects and comes_back(seen, pod)


def excluded(seen: Observation) -> tuple[str, ...]:
    """All nodes that pods made now are to keep off, by what this run and others say."""
    if not seen.run.spec.recovery.exclude_node_seconds:
        return ()
    namespace, _ = seen.run.key
    own = {each.node for each in in_force(seen)}
    told = defaultdict(list)
    for where, entry in seen.said_by_others:
        if entry.scope != "Run" and _lasts(seen, entry):
            told[entry.node].append((where, entry.scope))
    return tuple(sorted(own | {node for node, said in told.items() if _believed(said, namespace)}))


def _believed(said: Sequence[tuple[str, Scope]], namespace: str) -> bool:
    here = [scope for where, scope in said if where == namespace]
    return "Namespace" in here or len(here) > 1 or len({where for where, _ in said}) > 1


def unforgiven(status: Status, annotations: dict[str, str]) -> tuple[ExcludedNode, ...]:
    """The entries of a run's status but those that its annotation forgives."""
    forgiven = read_forgiven(annotations)
    return tuple(
        each
        for each in status.excluded_nodes
        if each.node not in forgiven or parse_time(each.time) > parse_time(forgiven[each.node])
    )


def read_forgiven(annotations: dict[str, str]) -> dict[str, str]:
    """Node → when it was forgiven. What isn't that is nothing: an annotation passes no admission."""
    try:
        given = _FORGIVEN.validate_json(annotations.get(ANNOTATION_FORGIVEN, "{}"))
        return {node: time for node, time in given.items() if parse_time(time).tzinfo}
    except (ValidationError, ValueError):
        return {}


def forgive(annotations: dict[str, str], node: str, time: str) -> str:
    """The value of the annotation that forgives one node more."""
    return json.dumps(read_forgiven(annotations) | {node: time})
