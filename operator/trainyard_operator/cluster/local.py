"""A cluster that is this machine: pods are processes, their status is kept as a kubelet would keep it.

Differences to Kubernetes, all of them on purpose: a run stays until its user deletes it, images are ignored (a pod runs the
software that is installed here), a pod counts as ready when its process runs, every pod has an address of its own in
127.0.0.0/8, cores are shared out evenly among the ranks of the stage whatever `resources` ask for, and nothing is isolated.
"""

import asyncio
import base64
import os
import shutil
import sys
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trainyard_api.names import AGENT_PORT, LABEL_RUN, LABEL_STAGE
from trainyard_api.run import TrainingRun

from ..runtime.store import Key, Store
from . import processes
from .home import Home, replace
from .protocol import ConflictError, GoneError, Manifest

NODE = "local"
DEFAULT_GRACE_SECONDS = 30
TERMINATION_LOG_BYTES = 4096
START_ERROR = 128
"""The exit code that container runtimes give a command that can't be run."""


@dataclass
class _Pod:
    manifest: Manifest
    owner: str
    process: asyncio.subprocess.Process | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    watcher: asyncio.Task[None] | None = None
    kill: asyncio.TimerHandle | None = None


class LocalCluster:
    """The runs that this process drives, and their pods. Changes go to the store, as from a watch."""

    def __init__(self, home: Home, store: Store) -> None:
        self._home = home
        self._store = store
        self._version = 0
        self._runs: dict[Key, Manifest] = {}
        self._pods: dict[Key, _Pod] = {}

    # ---- what `trainyard run` does

    async def open_run(self, run: Manifest) -> None:
        """Take charge of a run, new or read from its home, and end what an operator that was killed left of it."""
        self._home.make_folders(*_key(run))
        await processes.end(f"{run['metadata']['uid']}/")
        shutil.rmtree(self._home.folder(*_key(run)) / "scratch", ignore_errors=True)
        self._version = max(self._version, int(run["metadata"].get("resourceVersion") or 0))
        self._put_run(run)

    async def change_spec(self, key: Key, **fields: object) -> None:
        """Replace fields of a run's spec, as an API server does when a user applies a change."""
        run = self._runs[key]
        metadata = {**run["metadata"], "generation": run["metadata"]["generation"] + 1}
        self._put_run({**run, "metadata": metadata, "spec": {**run["spec"], **fields}})

    async def close(self, grace_seconds: float | None = None) -> list[Manifest]:
        """Stop all pods, with their own grace period if None, wait until they are gone, and return how they ended."""
        pods = list(self._pods.values())
        for pod in pods:
            await self.delete_pod(pod.manifest, grace_seconds)
        await asyncio.gather(*(pod.watcher for pod in pods if pod.watcher))
        return [pod.manifest for pod in pods]

    # ---- what the reconcile loop asks of any cluster

    def storage_uri(self, run: TrainingRun) -> str:
        """The run's storage as this machine sees it."""
        return self._home.storage_uri(run.spec.wire())

    async def create(self, manifest: Manifest) -> Manifest:
        """Make a Pod or Secret. One of that name and owner already is success; raises ConflictError otherwise.

        A Service or an Ingress is nothing here: what a pod serves is within reach.
        """
        match manifest["kind"]:
            case "Pod":
                return await self._create_pod(manifest)
            case "Secret":
                return self._create_secret(manifest)
        return manifest

    async def delete_pod(self, pod: Manifest, grace_seconds: float | None) -> bool:
        """SIGTERM now, SIGKILL to all that is left after the grace period. False if it is gone already."""
        known = self._find(pod)
        if known is None:
            return False
        if grace_seconds is None:
            grace_seconds = known.manifest["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
        until = datetime.now(UTC) + timedelta(seconds=grace_seconds)
        before = known.manifest["metadata"].get("deletionTimestamp")
        if before and datetime.fromisoformat(before) <= until:
            return True
        self._put_pod(known, metadata={**known.manifest["metadata"], "deletionTimestamp": _time(until)})
        if known.ended.is_set():
            self._forget(known)
        elif known.process and known.process.returncode is None:
            if known.kill:
                known.kill.cancel()
            known.kill = asyncio.get_running_loop().call_later(grace_seconds, known.process.kill)
            if not before and grace_seconds > 0:
                known.process.terminate()
        return True

    async def restarts_in_place(self) -> bool:
        """Never: the process of a pod that has ended is not started again."""
        return False

    async def find_pod(self, pod: Manifest) -> Manifest | None:
        """This very pod as it is now, None if it is gone."""
        known = self._find(pod)
        return known.manifest if known else None

    def _find(self, pod: Manifest) -> _Pod | None:
        known = self._pods.get(_key(pod))
        return known if known and known.manifest["metadata"]["uid"] == pod["metadata"]["uid"] else None

    async def delete_run(self, run: TrainingRun) -> None:
        """Nothing: nobody drives a run that has finished, so none would know when its time is up."""

    async def write_status(self, run: Manifest, status: Manifest, *, routine: bool = False) -> Manifest:
        """Replace the run's status on disk and in the store, if `run` is current."""
        current = self._runs.get(_key(run))
        if current is None or current["metadata"]["uid"] != run["metadata"]["uid"]:
            raise GoneError(f"run {run['metadata']['name']} is not here")
        if current["metadata"]["resourceVersion"] != run["metadata"]["resourceVersion"]:
            raise ConflictError(f"run {run['metadata']['name']} has changed")
        return self._put_run({**current, "status": status})

    async def post_event(self, run: Manifest, type: str, reason: str, message: str) -> None:
        """Append the event to the run's events.jsonl."""
        event = {"time": _time(datetime.now(UTC)), "type": type, "reason": reason, "message": message}
        self._home.append_event(*_key(run), event)

    async def list_runs(self) -> list[Manifest]:
        """All runs that this process drives."""
        return list(self._runs.values())

    async def list_pods(self) -> list[Manifest]:
        """All pods."""
        return [pod.manifest for pod in self._pods.values()]

    # ---- a small kubelet

    async def _create_pod(self, manifest: Manifest) -> Manifest:
        key = _key(manifest)
        if known := self._pods.get(key):
            if known.manifest["metadata"]["ownerReferences"] != manifest["metadata"]["ownerReferences"]:
                raise ConflictError(f"pod {key[1]} belongs to another run")
            return known.manifest
        uid = str(uuid.uuid4())
        created = {**manifest["metadata"], "uid": uid, "creationTimestamp": _time(datetime.now(UTC))}
        spec = {**manifest["spec"], "nodeName": NODE}
        owner = f"{manifest['metadata']['ownerReferences'][0]['uid']}/{uid}"
        pod = self._pods[key] = _Pod({**manifest, "metadata": created, "spec": spec, "status": {}}, owner)
        folder = self._home.folder(key[0], created["labels"][LABEL_RUN])
        address = processes.free_address(AGENT_PORT)
        termination_log = folder / "termination" / created["name"]
        environment = {
            **self._environment(manifest, folder),
            "TRAINYARD_BIND": address,
            "TRAINYARD_MASTER_PORT": "0",
            "TRAINYARD_TERMINATION_LOG": str(termination_log),
            "TRAINYARD_SCRATCH": str(folder / "scratch" / created["name"]),
        }
        started = _time(datetime.now(UTC))
        command = manifest["spec"]["containers"][0]["command"]
        try:
            with self._home.open_log(folder, created["name"]) as output:
                pod.process = await processes.start(command, environment, owner, output)
        except OSError as error:
            self._show_end(pod, started, START_ERROR, "StartError", f"{command[0]}: {error.strerror}")
            return pod.manifest
        self._put_pod(pod, status=_status(pod, "Running", {"running": {"startedAt": started}}, ready=True, ip=address))
        pod.watcher = asyncio.create_task(self._watch(pod, pod.process, started, termination_log))
        return pod.manifest

    async def _watch(self, pod: _Pod, process: asyncio.subprocess.Process, started: str, log: Path) -> None:
        """Show the end of a pod, and let the pod go if it is being deleted."""
        code = await process.wait()
        await processes.end(pod.owner)
        shutil.rmtree(log.parent.parent / "scratch" / log.name, ignore_errors=True)
        if pod.kill:
            pod.kill.cancel()
        code = code if code >= 0 else 128 - code  # ended by a signal: as a shell and container runtimes say it
        self._show_end(pod, started, code, "Error" if code else "Completed", _read_start(log))
        if "deletionTimestamp" in pod.manifest["metadata"]:
            self._forget(pod)

    def _show_end(self, pod: _Pod, started: str, code: int, reason: str, message: str) -> None:
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": _time(datetime.now(UTC))}
        state = {"terminated": {**ended, "message": message} if message else ended}
        ip = pod.manifest["status"].get("podIP", "")
        self._put_pod(pod, status=_status(pod, "Failed" if code else "Succeeded", state, ready=False, ip=ip))
        pod.ended.set()

    def _environment(self, pod: Manifest, folder: Path) -> dict[str, str]:
        """This machine's environment with the container's over it.

        A mount can't be at its path here: values below a mountPath are turned into where the volume really is, and what
        points to an emptyDir (HOME, caches) is left to this machine.
        """
        spec = pod["spec"]
        container = spec["containers"][0]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        mounts: dict[str, Path | None] = {}
        for mount in container.get("volumeMounts", ()):
            volume = volumes[mount["name"]]
            if "persistentVolumeClaim" in volume:
                mounts[mount["mountPath"]] = self._home.volume(volume["persistentVolumeClaim"]["claimName"])
            elif "secret" in volume:
                mounts[mount["mountPath"]] = folder / "secrets" / volume["secret"]["secretName"]
            else:
                mounts[mount["mountPath"]] = None
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        environment = {**os.environ, "PATH": path}
        for variable in container.get("env", ()):
            name, value = variable["name"], variable.get("value", "")
            under = next((m for m in mounts if value == m or value.startswith(f"{m}/")), None)
            if under is None:
                environment[name] = value
            elif place := mounts[under]:
                environment[name] = f"{place}{value.removeprefix(under)}"
        return environment | {"OMP_NUM_THREADS": str(self._threads(pod))}

    def _threads(self, pod: Manifest) -> int:
        """Threads of a rank: all cores shared out evenly among the ranks of the stage, for all of them are here."""
        labels = pod["metadata"]["labels"]
        run = TrainingRun.read_stored(self._runs[pod["metadata"]["namespace"], labels[LABEL_RUN]])
        stage = next(stage for stage in run.spec.stages if stage.name == labels[LABEL_STAGE])
        return max(1, len(os.sched_getaffinity(0)) // run.spec.ranks(stage))

    def _create_secret(self, manifest: Manifest) -> Manifest:
        """A file for each key, in a folder that is closed to all others."""
        metadata = manifest["metadata"]
        folder = self._home.folder(metadata["namespace"], metadata["labels"][LABEL_RUN]) / "secrets"
        content = {name: base64.b64decode(value) for name, value in manifest.get("data", {}).items()}
        content |= {name: value.encode() for name, value in manifest.get("stringData", {}).items()}
        (folder / metadata["name"]).mkdir(mode=0o700, exist_ok=True)
        for name, value in content.items():
            replace(folder / metadata["name"] / name, value, 0o600)
        return manifest

    def _put_run(self, run: Manifest) -> Manifest:
        run = {**run, "metadata": {**run["metadata"], "resourceVersion": self._next_version()}}
        self._home.write_run(run)
        self._runs[_key(run)] = run
        self._store.put(run)
        return run

    def _put_pod(self, pod: _Pod, **changed: Manifest) -> None:
        pod.manifest = {**pod.manifest, **changed}
        pod.manifest["metadata"] = {**pod.manifest["metadata"], "resourceVersion": self._next_version()}
        self._store.put(pod.manifest)

    def _forget(self, pod: _Pod) -> None:
        self._pods.pop(_key(pod.manifest), None)
        self._store.remove(pod.manifest)

    def _next_version(self) -> str:
        self._version += 1
        return str(self._version)


def _status(pod: _Pod, phase: str, state: Manifest, *, ready: bool, ip: str) -> Manifest:
    """A pod's status as a kubelet writes it."""
    spec = pod.manifest["spec"]["containers"][0]
    truth = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
    container = {"name": spec["name"], "image": spec.get("image", ""), "restartCount": 0, "ready": ready}
    return {
        "phase": phase,
        "podIP": ip,
        "conditions": [{"type": type, "status": str(true)} for type, true in truth.items()],
        "containerStatuses": [{**container, "state": state}],
    }


def _read_start(log: Path) -> str:
    """What a pod left in its termination log; one that was killed leaves nothing."""
    try:
        with open(log, "rb") as file:
            return file.read(TERMINATION_LOG_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _key(manifest: Manifest) -> Key:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


def _time(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
