"""Faults that the kind suite and `benchmarks.recovery` bring about: with the node's own tools, from outside of the pods."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kind.cluster import CONTEXT, SYSTEM, Run, get, kubectl

CLUSTER = CONTEXT.removeprefix("kind-")
CONTROL_PLANE = f"{CLUSTER}-control-plane"


def docker(*arguments: str) -> str:
    """What docker prints."""
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def kill_agent(run: Run, worker: int, stage: str) -> str:
    """SIGKILL process 1 of a worker's pod, which nothing in the pod itself can do. Returns the pod's name."""
    pod = run.pod(worker, stage)
    _on_node(pod["spec"]["nodeName"], pod["metadata"]["name"], IS_FIRST, KILL)
    return str(pod["metadata"]["name"])


def kill_rank(run: Run, worker: int, stage: str) -> str:
    """SIGKILL the first rank of a worker. Returns the pod's name."""
    pod = run.pod(worker, stage)
    _on_node(pod["spec"]["nodeName"], pod["metadata"]["name"], IS_RANK, KILL)
    return str(pod["metadata"]["name"])


IS_FIRST, IS_RANK = "grep -Eq '^NSpid:.*[[:space:]]1$' $p/status", "grep -q '^rank-' $p/comm"
KILL = "kill -9 ${p#/proc/}"


def _on_node(node: str, pod: str, chosen: str, act: str) -> None:
    """Do something to the pod's first process for which the shell's condition on $p holds."""
    mine = f'grep -qz "^HOSTNAME={pod}$" $p/environ'
    script = f"for p in /proc/[0-9]*; do if {mine} && {chosen}; then {act} && exit 0; fi; done 2>/dev/null; exit 1"
    docker("exec", node, "sh", "-c", script)


def use_up_memory(run: Run, worker: int, stage: str) -> str:
    """Take memory in a worker's container until the kernel kills its rank, which is the largest process there and marked as
    the first to go: what takes it is many small ones. Returns the pod's name.
    """
    pod = run.pod(worker, stage)
    name = str(pod["metadata"]["name"])
    _on_node(pod["spec"]["nodeName"], name, IS_RANK, "echo 1000 > $p/oom_score_adj")
    taking = (
        "import glob, os, pathlib, time\n"
        "ranks = [p for p in glob.glob('/proc/[0-9]*') if pathlib.Path(p, 'comm').read_text().startswith('rank-')]\n"
        "while all(map(os.path.exists, ranks)):\n"
        "    if not os.fork(): held = bytes([1]) * (64 << 20); time.sleep(60); os._exit(0)\n"
        "    time.sleep(0.05)\n"
        "os.killpg(0, 9)"
    )
    kubectl("-n", run.namespace.name, "exec", name, "--", "python", "-c", taking, check=False)
    return name


def signaller(pod: str) -> Callable[[str], object]:
    """Sends signals to the process of an operator's pod from its node: a container's first process takes none of its own."""
    node = str(get("-n", SYSTEM, "pod", pod)["spec"]["nodeName"])
    found = docker("exec", node, "sh", "-c", f"grep -lsxz POD_NAME={pod} /proc/[0-9]*/environ || true").splitlines()
    [pid] = {path.split("/")[2] for path in found}
    return lambda signal: docker("exec", node, "sh", "-c", f"kill -{signal} {pid}")


@contextmanager
def paused_api_server() -> Iterator[None]:
    """The API server answers nobody for as long as the context lasts."""
    find = "kill -{} $(pgrep -x kube-apiserver)"
    docker("exec", CONTROL_PLANE, "sh", "-c", find.format("STOP"))
    try:
        yield
    finally:
        docker("exec", CONTROL_PLANE, "sh", "-c", find.format("CONT"))


def leading_node() -> str:
    """The node of the operator that leads."""
    leader = get("-n", SYSTEM, "lease", "trainyard")["spec"]["holderIdentity"]
    return str(get("-n", SYSTEM, "pod", leader)["spec"]["nodeName"])


def kill_node(node: str) -> None:
    """Switch a node off, at once."""
    docker("kill", node)


def start_node(node: str) -> None:
    """Switch it on again."""
    docker("start", node)
