"""A rank that trains, and then says how much memory it has had at most beyond what it began with.

Counted is what it allocates (anonymous and shared pages), looked at every 2 ms: the kernel keeps the peak of all resident pages
alone, and how many pages of torch's own libraries come to be resident is no part of a forecast.
"""

import sys
import threading
import time
from pathlib import Path

import deepspeed  # noqa: F401 - as a warm process has them before it trains
import transformers  # noqa: F401
from trainyard_trainer.group import Group
from trainyard_trainer.stages.pretrain import pretrain

LOOK_SECONDS = 0.002


def resident() -> int:
    """Bytes now."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def main() -> None:
    """Train as the environment says, and print the peak."""
    before = peak = resident()

    def look() -> None:
        nonlocal peak
        while True:
            peak = max(peak, resident())
            time.sleep(LOOK_SECONDS)

    threading.Thread(target=look, daemon=True).start()
    pretrain(Group.from_environment())
    print(f"peak: {peak - before}", file=sys.stderr)


if __name__ == "__main__":
    main()
