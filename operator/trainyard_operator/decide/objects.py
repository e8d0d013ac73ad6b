"""The objects of a run, as JSON: pods, the agents' Secret, and the job that the trainer is handed.

Pods are hardened and hold no Kubernetes credentials. `restartPolicy: Never`: an ended process is a fact that the operator
decides about, not something that the kubelet repeats. A container that was killed may start again in its pod (container.py).
"""

from typing import Any

from trainyard_api.collect_settings import COLLECT_PORT
from trainyard_api.names import (
    AGENT_PORT,
    ANNOTATION_EXCLUDED,
    API_VERSION,
    KIND,
    LABEL_ATTEMPT,
    LABEL_RANK,
    LABEL_RUN,
    LABEL_STAGE,
    LABEL_TLS,
    MANAGED_BY,
    MASTER_PORT,
    TLS_FILE,
    TOKEN_FILE,
    TRAINER_CONTAINER,
    artifact_uri,
    pod_name,
    secret_name,
)
from trainyard_api.protocol import Job
from trainyard_api.run import Resources, Stage
from trainyard_api.status import Status

from ..cluster.protocol import Manifest
from .container import RULES
from .grace import grace_seconds
from .observation import Observation, parse_time
from .placement import avoided, keep_off
from .template import merge

LOST_NODE_SECONDS = 30
"""How long a pod tolerates a node that is not ready or unreachable; Kubernetes' own default is 300."""
USER = 1000
POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""What protects the node from what runs in our pods, whoever makes them."""
PAGE_PORT = "page"
"""The name of the port of the page that a stage serves."""
SCRATCH = {"HOME": "/tmp", "TMPDIR": "/tmp", "XDG_CACHE_HOME": "/tmp/cache", "TRITON_CACHE_DIR": "/tmp/triton"}


def job_of(seen: Observation) -> Job:
    """What the current stage's processes need to know."""
    run, stage = seen.run, seen.stage
    namespace, name = run.key

    def uri(of: str) -> str:
        return artifact_uri(seen.storage_uri, namespace, name, of)

    return Job(
        namespace=namespace,
        run=name,
        run_uid=run.metadata.uid,
        stage=stage.name,
        kind=stage.kind,
        settings=stage.settings.wire(),
        seed=run.spec.seed,
        storage_uri=seen.storage_uri,
        output_uri=uri(stage.name),
        inputs={field: uri(of) for field, of in stage.inputs.items()},
        memory_budget=run.spec.memory_budget(stage),
        recoveries=seen.status.restarts.total,
        recovered_seconds=_recovered_seconds(seen.status),
        hang_seconds=run.spec.recovery.hang_seconds,
        start_seconds=run.spec.recovery.start_seconds,
    )


def _recovered_seconds(status: Status) -> float:
    """From the run's start to its last recovery: no clock is in it, so a job stays the same for as long as its attempt."""
    if not status.recoveries or not status.start_time:
        return 0.0
    return (parse_time(status.recoveries[-1].time) - parse_time(status.start_time)).total_seconds()


def secret_manifest(seen: Observation) -> Manifest:
    """The Secret of the agents, still empty: deciding knows no secrets."""
    metadata, tls = seen.run.metadata, _speaks_tls(seen)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": secret_name(metadata.name, metadata.uid, tls=tls),
            "namespace": metadata.namespace,
            "labels": {**MANAGED_BY, LABEL_RUN: metadata.name, **_tls_label(tls)},
            "ownerReferences": owners(seen),
        },
    }


def pod_manifest(seen: Observation, worker: int) -> Manifest:
    """The pod of one worker of the current attempt, with the run's and the stage's template merged over it."""
    run, stage, attempt = seen.run, seen.stage, seen.status.attempt
    namespace, name = run.key
    resources = run.spec.stage_resources(stage)
    labels = {LABEL_RUN: name, LABEL_STAGE: stage.name, LABEL_RANK: str(worker), LABEL_ATTEMPT: str(attempt)}
    tls = _speaks_tls(seen)
    labels |= _tls_label(tls)
    pod = pod_name(name, stage.name, worker, attempt)
    grace = grace_seconds(seen)
    environment = {
        "TRAINYARD_POD": pod,
        "TRAINYARD_NAMESPACE": namespace,
        "TRAINYARD_RUN": name,
        "TRAINYARD_STAGE": stage.name,
        "TRAINYARD_KIND": stage.kind,
        "TRAINYARD_TOKEN_FILE": TOKEN_FILE,
        "TRAINYARD_MASTER_PORT": str(MASTER_PORT),
        "TRAINYARD_GRACE_SECONDS": str(grace),
        "OMP_NUM_THREADS": str(_threads(resources)),
        **({"TRAINYARD_TLS_FILE": TLS_FILE} if tls else {}),
        **SCRATCH,
    }
    mounts = [
        {"name": "token", "mountPath": TOKEN_FILE.rsplit("/", 1)[0], "readOnly": True},
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    container = {
        "name": TRAINER_CONTAINER,
        "image": run.spec.image or seen.settings.trainer_image,
        "imagePullPolicy": seen.settings.image_pull_policy,
        "command": ["trainyard-trainer", "agent"],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "ports": [{"name": "agent", "containerPort": AGENT_PORT}, *_page_ports(stage)],
        "resources": _container_resources(resources),
        # Unready within 5 s of its agent's silence: it is the agent then, not the node.
        "readinessProbe": {
            "httpGet": {"path": "/healthz", "port": "agent", "scheme": "HTTPS" if tls else "HTTP"},
            "periodSeconds": 2,
            "failureThreshold": 2,
        },
        "volumeMounts": mounts,
    }
    volumes: list[dict[str, Any]] = [
        {
            "name": "token",
            "secret": {"secretName": secret_name(name, run.metadata.uid, tls=tls), "defaultMode": 0o440},
        },
        {"name": "scratch", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    if secret := run.spec.storage.secret_name:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    if claim := run.spec.storage.claim_name:
        mounts.append({"name": "storage", "mountPath": run.spec.storage.uri.removeprefix("file://")})
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": claim}})
    ours: Manifest = {
        "metadata": {"name": pod, "namespace": namespace, "labels": {**MANAGED_BY, **labels}},
        "spec": {
            "containers": [container],
            "volumes": volumes,
            "terminationGracePeriodSeconds": grace,
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{taint}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": LOST_NODE_SECONDS,
                }
                for taint in ("not-ready", "unreachable")
            ],
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {key: labels[key] for key in (LABEL_RUN, LABEL_STAGE)}},
                }
            ],
        },
    }
    for template in (run.spec.template, stage.template):
        ours = merge(ours, template or {})
    if nodes := avoided(seen):
        keep_off(ours, nodes)
        ours["metadata"].setdefault("annotations", {})[ANNOTATION_EXCLUDED] = ",".join(nodes)
    return _protect(seen, ours, labels)


def _protect(seen: Observation, pod: Manifest, labels: dict[str, str]) -> Manifest:
    """What no template may change: identity, owner, credentials, and what protects the node."""
    pod["apiVersion"], pod["kind"] = "v1", "Pod"
    pod["metadata"]["labels"].update({**MANAGED_BY, **labels})
    pod["metadata"]["ownerReferences"] = owners(seen)
    pod["spec"] |= {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
    }
    for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
        container["securityContext"] = CONTAINER_SECURITY
        if seen.restarts_in_place and container["name"] == TRAINER_CONTAINER:
            container |= {"restartPolicy": "Never", "restartPolicyRules": RULES}
    return pod


def _speaks_tls(seen: Observation) -> bool:
    """Whether the group's agents serve HTTPS, all of them or none, for each tells others as it is told itself: a change of
    the setting is for the next whole group.
    """
    there = [pod for pod in seen.group.values() if seen.stays(pod)]
    return there[0].tls if there else seen.settings.agent_tls


def _tls_label(tls: bool) -> dict[str, str]:
    return {LABEL_TLS: str(tls).lower()}


def owners(seen: Observation) -> list[dict[str, Any]]:
    """Owned by the run: the garbage collector deletes all of it with the run."""
    metadata = seen.run.metadata
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": metadata.name, "uid": metadata.uid}
    return [{**owner, "controller": True}]


def _page_ports(stage: Stage) -> list[dict[str, Any]]:
    return [{"name": PAGE_PORT, "containerPort": COLLECT_PORT}] if stage.kind == "collect" else []


def _threads(resources: Resources) -> int:
    """Threads of a rank: an equal share of the worker's CPUs. Fixed, for sums depend on how they are split."""
    cpu = resources.cpu
    cores = int(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    return max(1, int(cores) // resources.ranks)


def _container_resources(resources: Resources) -> dict[str, dict[str, str]]:
    """CPU is a request without a limit, for throttled ranks hold up all others; memory and GPUs are both."""
    fixed = {"memory": resources.memory}
    if resources.gpus:
        fixed["nvidia.com/gpu"] = str(resources.gpus)
    return {"requests": {"cpu": resources.cpu, **fixed}, "limits": fixed}
