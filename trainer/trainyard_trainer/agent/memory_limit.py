"""Whether the kernel has killed for lack of memory in this container.

A rank that is killed so looks like one that was killed by hand, and the kubelet tells of it only when process 1 ends. But the
kernel counts, per control group.
"""

from pathlib import Path

COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
"""Of control groups v2 and v1; a container sees its own."""


def out_of_memory_kills(counts: tuple[Path, ...] = COUNTS) -> int:
    """Processes of this container that were killed so until now; 0 where nobody counts."""
    for file in counts:
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    return 0
