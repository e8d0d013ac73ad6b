"""The kind cluster of `make kind-up` as the tests use it: through kubectl, as a user would, and the kubelet's own words.

Each test module gets a namespace of its own, with a claim `training` on the folder that all nodes share.
"""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from conditions import eventually
from local_runs import TRAINYARD
from training import committed_steps, metric_lines, shard_digests
from trainyard_api.names import LABEL_ATTEMPT, LABEL_RANK, LABEL_RUN, LABEL_STAGE

CONTEXT = os.environ.get("TRAINYARD_KIND_CONTEXT", "kind-trainyard")
SHARED = Path("/tmp/trainyard-kind")
"""The host's folder that kind-config.yaml mounts into every node."""
SYSTEM = "trainyard-system"


def kubectl(*arguments: str, given: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run kubectl against the test cluster, never against another one."""
    done = subprocess.run(
        ["kubectl", "--context", CONTEXT, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done


def trainyard(kubeconfig: Path, *arguments: str) -> str:
    """What our own command prints, used on the test cluster."""
    done = subprocess.run(
        [TRAINYARD, *arguments],
        cwd=kubeconfig.parent,
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def get(*arguments: str) -> dict[str, Any]:
    """What kubectl gets, as JSON."""
    return dict(json.loads(kubectl("get", *arguments, "-o", "json").stdout))


@dataclass(frozen=True)
class Namespace:
    """A namespace, and its folder of the shared storage."""

    name: str

    @property
    def folder(self) -> Path:
        """The claim's folder, seen from this machine."""
        return SHARED / self.name

    def create(self) -> None:
        """Make the namespace with a claim `training` that every node can mount, on an empty folder.

        Nothing is taken over from an earlier test session that was interrupted: its runs would count as this one's, and its
        volume never be bound again. What pods wrote belongs to their user, so a node deletes it.
        """
        self.delete()
        kubectl("delete", "namespace", self.name, "--ignore-not-found", "--timeout=90s")
        kubectl("delete", "persistentvolume", self.name, "--ignore-not-found", "--timeout=30s", check=False)
        node = f"{CONTEXT.removeprefix('kind-')}-control-plane"
        subprocess.run(["docker", "exec", node, "rm", "-rf", f"/var/trainyard/{self.name}"], check=True, timeout=60)
        self.folder.mkdir(mode=0o777, parents=True, exist_ok=True)
        self.folder.chmod(0o777)
        storage = yaml.safe_load_all(Path("manifests/kind/storage.yaml").read_text())
        volume, claim = storage
        volume["metadata"]["name"] = claim["spec"]["volumeName"] = self.name
        volume["spec"]["claimRef"]["namespace"] = claim["metadata"]["namespace"] = self.name
        volume["spec"]["hostPath"]["path"] = f"/var/trainyard/{self.name}"
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}}
        kubectl("apply", "-f", "-", given=yaml.safe_dump_all([space, volume, claim]))

    def delete(self) -> None:
        """Delete the namespace with all that is in it, and its volume: what still runs is waited for, it would take CPU."""
        kubectl("-n", self.name, "delete", "trainingruns", "--all", "--wait=false", check=False)
        kubectl("delete", "namespace", self.name, "--wait=false", check=False)
        kubectl("delete", "persistentvolume", self.name, "--wait=false", check=False)
        eventually(lambda: not self.running(), 90, f"nothing runs in {self.name}", detail=lambda: str(self.running()))

    def apply(self, manifest: dict[str, Any]) -> "Run":
        """Apply a run, as a user does."""
        kubectl("-n", self.name, "apply", "-f", "-", given=json.dumps(manifest))
        return Run(self, manifest["metadata"]["name"])

    def running(self) -> list[str]:
        """Pods on nodes that have not ended."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods()
            if pod["spec"].get("nodeName") and pod["status"]["phase"] in ("Pending", "Running")
        ]

    def pods(self, *selectors: str) -> list[dict[str, Any]]:
        """The namespace's pods."""
        chosen = ("-l", ",".join(selectors)) if selectors else ()
        return list(get("-n", self.name, "pods", *chosen)["items"])


@dataclass(frozen=True)
class Run:
    """A TrainingRun on the cluster."""

    namespace: Namespace
    name: str

    @property
    def folder(self) -> Path:
        """What it makes, seen from this machine."""
        return self.namespace.folder / self.namespace.name / self.name

    @property
    def status(self) -> dict[str, Any]:
        """Its status now; empty before the operator has seen it."""
        return dict(get("-n", self.namespace.name, "trainingrun", self.name).get("status") or {})

    def columns(self) -> dict[str, str]:
        """What `kubectl get trainingruns` prints of it: each cell begins where its column's name does."""
        header, row = kubectl("-n", self.namespace.name, "get", "trainingrun", self.name).stdout.splitlines()
        cells, start = {}, 0
        for name in re.findall(r"\S+\s*", header):
            cells[name.strip()] = row[start : start + len(name)].strip()
            start += len(name)
        return cells

    def until(self, holds: Callable[[dict[str, Any]], Any], seconds: float, what: str) -> dict[str, Any]:
        """Wait for a condition on the status; a run that fails meanwhile fails the wait at once."""

        def look() -> dict[str, Any] | None:
            status = self.status
            if holds(status):
                return status
            assert status.get("phase") != "Failed", f"{self.name} failed, waiting for {what}: {status}"
            return None

        return eventually(look, seconds, f"{self.name}: {what}", detail=lambda: json.dumps(self.status, indent=1))

    def until_step(self, step: int, attempt: int = 2, saved: int = 0, stage: str = "base") -> None:
        """Wait until that attempt has done such a step of the stage, and the last checkpoint is of step `saved` or later.

        Read from storage, where it stands at once: a status tells every few seconds, in which a run may end.
        """

        def far_enough() -> bool:
            done = max((row["step"] for row in self.losses(stage) if row["attempt"] == attempt), default=0)
            return done >= step and max(committed_steps(self.folder / stage), default=0) >= saved

        def detail() -> str:
            return json.dumps(self.status, indent=1)

        eventually(far_enough, 180, f"{self.name}: attempt {attempt} trains to step {step}", detail)

    def pod(self, worker: int, stage: str) -> dict[str, Any]:
        """The pod of a worker that was made last."""
        found = self.namespace.pods(f"{LABEL_RUN}={self.name}", f"{LABEL_STAGE}={stage}", f"{LABEL_RANK}={worker}")
        return max(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def group(self, stage: str) -> dict[int, str]:
        """The name of each worker's newest pod."""
        pods = self.namespace.pods(f"{LABEL_RUN}={self.name}", f"{LABEL_STAGE}={stage}")
        made = sorted(pods, key=lambda pod: int(pod["metadata"]["labels"][LABEL_ATTEMPT]))
        return {int(pod["metadata"]["labels"][LABEL_RANK]): pod["metadata"]["name"] for pod in made}

    def delete_pod(self, worker: int, stage: str, *, force: bool = False) -> None:
        """Delete a worker's pod."""
        now = ("--force", "--grace-period=0") if force else ()
        kubectl(
            "-n",
            self.namespace.name,
            "delete",
            "pod",
            self.pod(worker, stage)["metadata"]["name"],
            "--wait=false",
            *now,
        )

    def evict_pod(self, worker: int, stage: str) -> None:
        """Evict a worker's pod through the API, as a drain does."""
        name = self.pod(worker, stage)["metadata"]["name"]
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": self.namespace.name},
        }
        path = f"/api/v1/namespaces/{self.namespace.name}/pods/{name}/eviction"
        kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction))

    def steps(self) -> list[int]:
        """Every step that its stage `base` has done, as often as it was done."""
        return [row["step"] for row in self.losses()]

    def losses(self, stage: str = "base") -> list[dict[str, Any]]:
        """What the stage has written of each step it did."""
        return [row for row in metric_lines(self.folder / stage) if "loss" in row]

    def trained(self, stage: str = "base") -> list[str]:
        """Digests of what training has ended with: weights, moments and random streams of each rank."""
        return shard_digests(self.folder / stage, self.status["checkpoint"]["step"])

    def weights(self, stage: str) -> str:
        """SHA-256 of the weights that an export stage wrote."""
        return hashlib.sha256((self.folder / stage / "model/model.safetensors").read_bytes()).hexdigest()
