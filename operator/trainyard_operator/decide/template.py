"""A user's pod template, merged over ours as a strategic merge patch would: objects by key, named lists by name.

What protects the node is not in the user's hands: fields that reach out of the container are refused by name.
"""

from typing import Any

from trainyard_api.run import Spec

MERGE_KEYS = ("name", "mountPath", "containerPort")
"""What tells the items of a list apart, in the order in which they are tried."""

ALLOWED = (
    "affinity",
    "containers",
    "imagePullSecrets",
    "initContainers",
    "nodeSelector",
    "preemptionPolicy",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
)
"""Fields of a pod's spec that a template may set."""

INSTEAD = {"terminationGracePeriodSeconds": "use recovery.graceSeconds"}
"""Fields that the run has a field for."""


def merge(ours: Any, theirs: Any) -> Any:
    """`theirs` over `ours`; neither is changed."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return {
            **ours,
            **{key: merge(ours[key], value) if key in ours else value for key, value in theirs.items()},
        }
    if isinstance(ours, list) and isinstance(theirs, list):
        return _merge_lists(ours, theirs)
    return theirs


def _merge_lists(ours: list[Any], theirs: list[Any]) -> list[Any]:
    """By key where items have one, added where they are objects without (tolerations), replaced else (a command)."""
    items = [*ours, *theirs]
    if not all(isinstance(item, dict) for item in items):
        return theirs
    key = next((key for key in MERGE_KEYS if all(key in item for item in items)), None)
    if key is None:
        return items
    merged = {item[key]: item for item in ours}
    for item in theirs:
        merged[item[key]] = merge(merged[item[key]], item) if item[key] in merged else item
    return list(merged.values())


def template_mistakes(spec: Spec) -> tuple[str, ...]:
    """What is wrong with the run's and the stages' templates, each with its path and the remedy."""
    templates = [("spec.template", spec.template)]
    templates += [(f"spec.stages[{i}].template", stage.template) for i, stage in enumerate(spec.stages)]
    return tuple(text for path, template in templates if template for text in _mistakes(path, template))


def _mistakes(path: str, template: dict[str, Any]) -> list[str]:
    found = [
        f"{path}.{key}: unknown field; a template has metadata and spec"
        for key in template
        if key not in ("metadata", "spec")
    ]
    pod = template.get("spec", {})
    if not isinstance(pod, dict) or not isinstance(template.get("metadata", {}), dict):
        return [*found, f"{path}: metadata and spec must be objects"]
    found += [
        f"{path}.spec.{key}: not for a template to set; {INSTEAD.get(key, 'remove it')}"
        for key in pod
        if key not in ALLOWED
    ]
    for i, volume in enumerate(_objects(pod, "volumes")):
        if "hostPath" in volume:
            found.append(f"{path}.spec.volumes[{i}].hostPath: reaches into the node; use a claim")
    for kind in ("containers", "initContainers"):
        for i, container in enumerate(_objects(pod, kind)):
            if not container.get("name"):
                found.append(f"{path}.spec.{kind}[{i}].name: required; ours is called trainer")
            if "securityContext" in container:
                found.append(f"{path}.spec.{kind}[{i}].securityContext: not for a template to set; remove it")
    return found


def _objects(pod: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = pod.get(key) or []
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
