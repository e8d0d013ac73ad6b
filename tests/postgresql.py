"""A real PostgreSQL for tests: Debian's, installed or unpacked by `make test`, with a cluster of its own in a folder."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conditions import eventually

UNPACKED = Path(".venv/debian/postgresql").absolute()
_OPTIONS = {"listen_addresses": "127.0.0.1", "shared_buffers": "16MB", "max_connections": "60", "autovacuum": "off"}


def installed() -> list[Path]:
    """Folders of initdb and postgres."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *UNPACKED.glob("usr/lib/postgresql/*/bin")]
    if found := shutil.which("postgres"):
        folders.insert(0, Path(found).resolve().parent)
    return folders


def programs() -> Path:
    """The first of them. Skips the test where there is none."""
    folders = installed()
    if not folders:
        pytest.skip(
            "needs PostgreSQL, which `make test` unpacks on Debian and Ubuntu; else: apt-get install postgresql"
        )
    return folders[0]


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a fresh database, as long as the context lasts. The server never runs as root, which it refuses."""
    with tempfile.TemporaryDirectory(prefix="trainyard-postgresql-") as made, socket.socket() as probe:
        folder = Path(made)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "LD_LIBRARY_PATH": str(UNPACKED / "usr/lib/x86_64-linux-gnu")}
        as_user: dict[str, Any] = {"env": environment, "cwd": folder}
        if os.geteuid() == 0:
            as_user |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(folder, "nobody", "nogroup")
        data = folder / "data"
        initdb = [programs() / "initdb", "-D", data, "-U", "trainyard", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(initdb, check=True, timeout=120, capture_output=True, **as_user)
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        command = [programs() / "postgres", "-D", data, "-p", str(port), "-k", folder, *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user) as server:
            ready = [programs() / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]

            def answers() -> bool:
                assert server.poll() is None, "PostgreSQL ended while it was starting"
                return subprocess.run(ready, timeout=30, capture_output=True, check=False, **as_user).returncode == 0

            try:
                eventually(answers, 60, "PostgreSQL answers")
                yield f"postgresql://trainyard@127.0.0.1:{port}/postgres"
            finally:
                server.terminate()  # smart: waits for clients
                try:
                    server.wait(1)
                except subprocess.TimeoutExpired:
                    server.kill()
                    server.wait(20)
