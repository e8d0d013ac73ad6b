"""Where pods must not go: to suspects, and to a node that was lost, which still looks ready to the scheduler for most of a
minute.
"""

from trainyard_api.status import Reason

from ..cluster.protocol import Manifest
from .observation import Observation
from .suspects import excluded

LOST_SECONDS = 300
"""How long a lost node is avoided. By then Kubernetes knows of it, or it is back."""
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def avoided(seen: Observation) -> list[str]:
    """The nodes that pods made now keep off: suspects, and those that this run has lost of late."""
    lost = (each for each in seen.status.recoveries if each.cause == Reason.NODE_LOST and each.node)
    return sorted({*excluded(seen), *(each.node for each in lost if seen.seconds_since(each.time) < LOST_SECONDS)})


def keep_off(pod: Manifest, nodes: list[str]) -> None:
    """Add to a pod's affinity that it goes to none of the nodes, in each of the alternatives that it has."""
    elsewhere = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    affinity = pod["spec"].get("affinity") or {}
    node_affinity = affinity.get("nodeAffinity") or {}
    terms = (node_affinity.get(REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    terms = [{**term, "matchFields": [*term.get("matchFields", ()), *elsewhere]} for term in terms]
    pod["spec"]["affinity"] = {**affinity, "nodeAffinity": {**node_affinity, REQUIRED: {"nodeSelectorTerms": terms}}}
