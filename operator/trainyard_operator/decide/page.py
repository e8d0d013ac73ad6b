"""The way to the page of a stage that asks people: a Service, and an Ingress where the stage has settings for one.

Both are the run's, and live as long as it does: links that were sent to people hold while the stage's pod is made anew.
"""

from trainyard_api.collect_settings import CollectStage
from trainyard_api.names import LABEL_RUN, LABEL_STAGE, MANAGED_BY, page_name

from ..cluster.protocol import Manifest
from .objects import PAGE_PORT, owners
from .observation import Observation


def ways(seen: Observation) -> list[Manifest]:
    """What leads to the page of the current stage, if it has one."""
    run, stage = seen.run, seen.stage
    if not isinstance(stage.settings, CollectStage):
        return []
    labels = {LABEL_RUN: run.metadata.name, LABEL_STAGE: stage.name}
    metadata = {
        "name": page_name(run.metadata.name, stage.name, run.metadata.uid),
        "namespace": run.metadata.namespace,
        "labels": {**MANAGED_BY, **labels},
        "ownerReferences": owners(seen),
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": labels, "ports": [{"name": PAGE_PORT, "port": 80, "targetPort": PAGE_PORT}]},
    }
    if not (wanted := stage.settings.ingress):
        return [service]
    to_service = {"service": {"name": metadata["name"], "port": {"name": PAGE_PORT}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": to_service}]
    ingress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {**metadata, "annotations": wanted.annotations},
        "spec": {
            "rules": [{"host": wanted.host, "http": {"paths": paths}}],
            **({"ingressClassName": wanted.class_name} if wanted.class_name else {}),
            **({"tls": [{"hosts": [wanted.host], "secretName": wanted.tls_secret}]} if wanted.tls_secret else {}),
        },
    }
    return [service, ingress]
