"""What Kubernetes does by itself: the scheduler, the kubelets and the node controller.

With Kubernetes' own times: a node that is not heard of is NotReady after 50 s, its pods are deleted when their tolerations
are over, and stay until it comes back or someone removes them by force. A node that was cut off has gone on with its work.
"""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from trainyard_api.names import AGENT_PORT, TRAINER_CONTAINER
from trainyard_api.protocol import HEARTBEAT_SECONDS, SILENT_SECONDS, Assignment, Termination

from ..cluster.kubernetes import RESTARTS_IN_PLACE
from ..cluster.protocol import Manifest
from ..cluster.simulated import OVER, ApiServer, Name, to_second
from ..decide.observation import UNREADY_CONTAINER
from .agents import Agent
from .gang import Gang, Machine
from .network import Network

NOT_READY_SECONDS = 50.0
PROBE_SECONDS = 2.0
"""Between two looks of a kubelet whether an agent answers."""
KILLED = 137
LOST_POWER = 255
"""What containers show that a kubelet finds dead after a boot."""
BACK_OFF_SECONDS = 40.0
REMOVED = {"exitCode": KILLED, "reason": "", "message": "The container is removed", "finishedAt": None}
"""All that is shown of a container that is started again, a moment after its end."""


@dataclass
class Node(Machine):
    """A machine, as the control plane knows it."""

    ready: bool = True
    """Whether the control plane believes in it."""
    lost: bool = False
    """Whether it is away, or has been a moment ago."""
    pods: set[str] = field(default_factory=set)
    """UIDs of those that take room."""


@dataclass
class Container:
    """A pod that its kubelet has started: its agent, and how it ended."""

    name: Name
    uid: str
    node: Node
    agent: Agent
    started: str
    end: Manifest | None = None
    """The terminated state."""
    restarts: int = 0
    """How often the pod's container has been started again."""
    restarting: bool = False
    """It is about to be started again, by another one."""
    stopping: bool = False
    kill: asyncio.TimerHandle | None = None


@dataclass
class Nodes:
    """The nodes of a cluster, and all that drives pods on them."""

    server: ApiServer
    network: Network
    random: random.Random
    gang_of: Callable[[Assignment, Agent], Gang]
    now: Callable[[], datetime]
    count: int
    pods_per_node: int
    on_lost: Callable[[Manifest], None]
    """Told of each pod that ends because its node was lost."""
    restarts_in_place: bool = False
    """Whether kubelets can start containers again by rules of their pods."""
    slow: float = 0.0
    """Chance that a pod's image must be pulled, for a minute."""
    nodes: list[Node] = field(default_factory=list)
    containers: dict[str, Container] = field(default_factory=dict)
    """By the pods' UIDs; those of pods that are gone as well, until their node has ended them."""
    _addresses: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.nodes = [Node(f"node-{number}") for number in range(self.count)]
        features = [RESTARTS_IN_PLACE] if self.restarts_in_place else []
        for node in self.nodes:
            metadata = {"name": node.name, "namespace": ""}
            self.server.add("nodes", {"metadata": metadata, "status": {"declaredFeatures": features}})
        self.server.watch("pods", self._pod_changed)

    def _later(self, seconds: float, do: Callable[..., object], *arguments: object) -> None:
        asyncio.get_running_loop().call_later(seconds, do, *arguments)

    def _current(self, name: Name, uid: str) -> Manifest | None:
        found = self.server.get("pods", name)
        return found if found and found["metadata"]["uid"] == uid else None

    # ---- the scheduler

    def _pod_changed(self, event: str, pod: Manifest) -> None:
        name, uid = _name(pod), pod["metadata"]["uid"]
        if event == "ADDED":
            self._later(0.05, self._schedule, name, uid)
        if event == "DELETED" or pod["status"]["phase"] in OVER:
            for node in self.nodes:
                if uid in node.pods:
                    node.pods.remove(uid)
                    self._later(0.1, self._schedule_waiting)
        if container := self.containers.get(uid):
            self._later(0.05, self._obey, container)

    def _schedule(self, name: Name, uid: str) -> None:
        pod = self._current(name, uid)
        if pod is None or pod["spec"].get("nodeName"):
            return
        free = [node for node in self.nodes if node.ready and len(node.pods) < self.pods_per_node]
        if not free:
            message = f"0/{len(self.nodes)} nodes are available: {len(self.nodes)} Insufficient cpu."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            if condition not in pod["status"].get("conditions", ()):
                self.server.change("pods", name, status={**pod["status"], "conditions": [condition]})
            return
        node = self.random.choice(free)
        node.pods.add(uid)
        condition = {"type": "PodScheduled", "status": "True"}
        spec, status = {**pod["spec"], "nodeName": node.name}, {**pod["status"], "conditions": [condition]}
        self.server.change("pods", name, spec=spec, status=status)
        pull = self.random.uniform(20, 90) if self.random.random() < self.slow else 0
        self._later(self.random.uniform(0.3, 1.5) + pull, self._start, name, uid, node)

    def _schedule_waiting(self) -> None:
        for pod in self.server.all("pods"):
            if not pod["spec"].get("nodeName"):
                self._schedule(_name(pod), pod["metadata"]["uid"])

    # ---- the kubelets

    def _start(self, name: Name, uid: str, node: Node) -> None:
        pod = self._current(name, uid)
        if pod is None:
            return
        if not node.connected:
            self._later(5, self._start, name, uid, node)
            return
        if pod["metadata"].get("deletionTimestamp"):
            self.server.remove("pods", name)
            return
        number = next(self._addresses)
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        self._run(pod, node, address)

    def _run(self, pod: Manifest, node: Node, address: str, restarts: int = 0) -> None:
        """Start the container of a pod."""
        name, uid, started = _name(pod), pod["metadata"]["uid"], to_second(self.now())
        agent = Agent(address, node, self.network, self.gang_of, partial(self._ended, uid), lambda: precise(self.now()))
        container = self.containers[uid] = Container(name, uid, node, agent, started, restarts=restarts)
        self._later(self.random.uniform(0.05, 0.5), self._serve, container)
        self._show(pod, "Running", container, {"running": {"startedAt": started}}, ready=False)

    def _serve(self, container: Container) -> None:
        agent = container.agent
        if not agent.dead:
            self.network.hosts[_host(agent)] = agent.answer
            container.node.addresses.add(agent.address)
            if not container.node.connected:
                self.network.cut_off.add(_host(agent))
            self._later(self.random.uniform(0, PROBE_SECONDS), self._probe, container)

    def _probe(self, container: Container) -> None:
        """Show that the agent answers."""
        pod = self._current(container.name, container.uid)
        if pod and container.end is None and container.node.connected:
            self._set_condition(pod, {"type": "Ready", "status": "True"})

    def _ended(self, uid: str, termination: Termination | None) -> None:
        """The container of a pod has ended by itself, or was killed."""
        container = self.containers[uid]
        self.network.hosts.pop(_host(container.agent), None)
        for other in self.containers.values():
            if other.end is None and other.agent.hears_of(container.agent.address):
                other.agent.listen()
        code = termination.exit_code if termination else KILLED
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": container.started}
        if termination:
            ended["message"] = termination.model_dump_json(by_alias=True, exclude_none=True)
        container.end = {**ended, "finishedAt": to_second(self.now())}
        self._later(self.random.uniform(0.1, 0.8), self._report, container)

    def _report(self, container: Container) -> None:
        """Show the end of a container, and remove its pod if it was to be deleted."""
        pod = self._current(container.name, container.uid)
        if pod is None:
            self.containers.pop(container.uid, None)
        elif container.node.connected and container.end:
            if container.end["exitCode"] in _restarted_codes(pod):
                self._begin_again(pod, container)
                return
            phase = "Failed" if container.end["exitCode"] else "Succeeded"
            if pod["status"]["phase"] not in OVER:
                pod = self._show(pod, phase, container, {"terminated": container.end}, ready=False)
            if pod["metadata"].get("deletionTimestamp"):
                self.server.remove("pods", container.name)

    def _begin_again(self, pod: Manifest, container: Container) -> None:
        """Show the end of a container for a moment, then that it is removed; start it again, now and then late."""
        if container.restarting:
            return
        container.restarting = True
        self._show(pod, "Running", container, {"terminated": container.end}, ready=False)
        late = BACK_OFF_SECONDS if self.random.random() < self.slow else 0.0
        self._later(0.05, self._remove, container, "CrashLoopBackOff" if late else "RestartingAllContainers")
        self._later(late + self.random.uniform(0.2, 4), self._start_again, container)

    def _remove(self, container: Container, reason: str) -> None:
        if (pod := self._restarting(container)) and container.node.connected:
            container.restarts += 1
            self._show(pod, "Running", container, {"waiting": {"reason": reason}}, ready=False)

    def _start_again(self, container: Container) -> None:
        pod = self._restarting(container)
        if pod and not container.node.connected:
            self._later(5, self._start_again, container)
        elif pod:
            restarts = pod["status"]["containerStatuses"][0]["restartCount"]
            self._run(pod, container.node, container.agent.address, restarts)

    def _restarting(self, container: Container) -> Manifest | None:
        """Its pod, if that is still to be started again."""
        pod = self._current(container.name, container.uid)
        deleted = pod is None or pod["metadata"].get("deletionTimestamp")
        return None if deleted or self.containers.get(container.uid) is not container else pod

    def _show(self, pod: Manifest, phase: str, container: Container, state: Manifest, *, ready: bool) -> Manifest:
        last = {"terminated": REMOVED} if container.restarts else {}
        shown = {"name": TRAINER_CONTAINER, "restartCount": container.restarts, "ready": ready, "state": state}
        conditions = pod["status"].get("conditions", ())
        kept = [each for each in conditions if each["type"] != "Ready"]
        same = [each for each in conditions if each["type"] == "Ready" and each["status"] == str(ready)]
        since = same[0].get("lastTransitionTime") if same else None
        unready = {"reason": UNREADY_CONTAINER, "lastTransitionTime": since or to_second(self.now())}
        status = {
            "phase": phase,
            "podIP": container.agent.address,
            "conditions": [*kept, {"type": "Ready", "status": str(ready), **unready}],
            "containerStatuses": [shown | {"lastState": last}],
        }
        return self.server.change("pods", _name(pod), status=status)

    def _obey(self, container: Container) -> None:
        """Do what the API server says of a container's pod: SIGTERM, SIGKILL when the grace period is over."""
        if not container.node.connected:
            return
        pod = self._current(container.name, container.uid)
        if pod is None:
            container.agent.kill()
            self.containers.pop(container.uid, None)
            return
        if container.end:
            self._report(container)
            return
        if pod["metadata"].get("deletionTimestamp") is None:
            return
        if container.kill:
            container.kill.cancel()
        until = datetime.fromisoformat(pod["metadata"]["deletionTimestamp"])
        left = max(0.0, (until - self.now()).total_seconds())
        container.kill = asyncio.get_running_loop().call_later(left, container.agent.kill)
        if not container.stopping:
            container.stopping = True
            container.agent.terminate()

    # ---- what happens to pods and nodes

    def running(self) -> list[Container]:
        """Containers that run on nodes that are connected, of pods that nobody has deleted."""
        found = [
            each for each in self.containers.values() if each.end is None and each.node.connected and not each.stopping
        ]
        return [each for each in found if self._current(each.name, each.uid)]

    def disrupt(self, container: Container, reason: str) -> None:
        """Evict or preempt a pod: the condition says why, and the deletion gives it its grace period."""
        if pod := self._current(container.name, container.uid):
            self._set_condition(pod, {"type": "DisruptionTarget", "status": "True", "reason": reason})
            self.server.delete("pods", container.name)

    def end_out_of_memory(self, container: Container) -> None:
        """The kernel kills the container."""
        container.agent.kill()
        if container.end:
            container.end["reason"] = "OOMKilled"

    def lose(self, node: Node, *, power: bool) -> None:
        """A node is heard of no more, not even by those that talk to it; without power its containers do nothing more."""
        node.connected = False
        node.powered = not power
        node.lost = True
        for container in [each for each in self.containers.values() if each.node is node]:
            self.network.cut_off.add(_host(container.agent))
        self._listen()
        self._later(NOT_READY_SECONDS, self._miss, node)

    def _listen(self) -> None:
        for container in self.containers.values():
            if container.end is None:
                container.agent.listen()

    def _miss(self, node: Node) -> None:
        if node.connected:
            return
        node.ready = False
        for pod in self.server.all("pods"):
            if pod["spec"].get("nodeName") == node.name:
                if any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"]):
                    self._set_condition(pod, {"type": "Ready", "status": "False"})
                tolerations = pod["spec"].get("tolerations", ())
                seconds = [each["tolerationSeconds"] for each in tolerations if each["key"].endswith("/unreachable")]
                self._later(seconds[0] if seconds else 300, self._evict, node, _name(pod), pod["metadata"]["uid"])

    def _evict(self, node: Node, name: Name, uid: str) -> None:
        pod = self._current(name, uid)
        if node.ready or pod is None or pod["status"]["phase"] in OVER:
            return
        self.on_lost(pod)
        self._set_condition(pod, {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"})
        self.server.delete("pods", name)

    def _set_condition(self, pod: Manifest, condition: Manifest) -> None:
        kept = [each for each in pod["status"].get("conditions", ()) if each["type"] != condition["type"]]
        self.server.change("pods", _name(pod), status={**pod["status"], "conditions": [*kept, condition]})

    def bring_back(self, node: Node) -> None:
        """The node is heard of again, and does what it has missed. What it ran when the power went is dead."""
        booted = not node.powered
        node.connected = node.ready = node.powered = True
        for container in [each for each in self.containers.values() if each.node is node]:
            self.network.cut_off.discard(_host(container.agent))
            if booted and container.end is None:
                if pod := self._current(container.name, container.uid):
                    self.on_lost(pod)
                container.agent.kill()
                if container.end:
                    container.end["exitCode"] = LOST_POWER
            self._probe(container)
            self._obey(container)
        for pod in self.server.all("pods"):
            orphaned = pod["spec"].get("nodeName") == node.name and pod["metadata"]["uid"] not in self.containers
            if orphaned and pod["metadata"].get("deletionTimestamp"):
                self.server.remove("pods", _name(pod))
        self._listen()
        self._later(SILENT_SECONDS + HEARTBEAT_SECONDS, self._forget_loss, node)
        self._schedule_waiting()

    def _forget_loss(self, node: Node) -> None:
        if node.connected:
            node.lost = False

    def was_lost(self, name: str) -> bool:
        """Whether a node is away, or has been a moment ago."""
        return any(node.lost for node in self.nodes if node.name == name)


def precise(time: datetime) -> str:
    """A time as agents write it."""
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _restarted_codes(pod: Manifest) -> set[int]:
    """With which a kubelet starts the container again."""
    rules = [rule for each in pod["spec"]["containers"] for rule in each.get("restartPolicyRules", ())]
    if pod["metadata"].get("deletionTimestamp") or pod["status"]["phase"] in OVER:
        return set()
    return {code for rule in rules for code in rule["exitCodes"]["values"]}


def _host(agent: Agent) -> str:
    return f"http://{agent.address}:{AGENT_PORT}"


def _name(manifest: Manifest) -> Name:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]
