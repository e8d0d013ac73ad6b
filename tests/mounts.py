"""File systems that run full or can't be written, for tests that run as root; others skip, and say so."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, options: str = "size=64m") -> Iterator[Callable[[str], bool]]:
    """A file system in memory at the folder. Call what it gives with other options; it says whether they hold now."""

    def mount(*arguments: str | Path) -> bool:
        return not subprocess.run(["/bin/mount", *arguments], capture_output=True, check=False).returncode

    if os.geteuid() or not mount("-t", "tmpfs", "-o", options, "tmpfs", folder):
        pytest.skip("NOT TESTED: needs root and CAP_SYS_ADMIN, to mount a small tmpfs")
    try:
        yield lambda options: mount("-o", f"remount,{options}", folder)
    finally:
        subprocess.run(["/bin/umount", "--lazy", folder], check=True)
