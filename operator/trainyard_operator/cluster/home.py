"""The folder in which runs on this machine live, `./.trainyard` by default. Whoever reads it needs no operator.

runs/<namespace>/<name>/run.json      spec and status, replaced by one rename
                        events.jsonl  what happened, one line each
                        logs/<pod>.log, termination/<pod>
                        secrets/<name>/<key>  0700
                        scratch/<pod>/        gone with the pod
                        lock          held by the `trainyard run` that drives the run
volumes/<claimName>/                  what a claim is in a cluster: artifacts, checkpoints
key                                   agents' tokens are derived from it
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .protocol import Manifest


class HeldError(Exception):
    """Another process drives the run."""


class Home:
    """Paths and files of the runs on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def folder(self, namespace: str, name: str) -> Path:
        """All that belongs to one run, but for what it makes."""
        return self.root / "runs" / namespace / name

    def volume(self, claim: str) -> Path:
        """What the claim is on this machine."""
        return self.root / "volumes" / claim

    def storage_uri(self, spec: Manifest) -> str:
        """A run's storage as this machine sees it: the claim's folder, or without a claim what the URI says."""
        storage = spec.get("storage") or {}
        if claim := storage.get("claimName"):
            return f"file://{self.volume(claim)}"
        uri: str = storage.get("uri", "file:///storage")
        return uri.rstrip("/")

    def storage(self, spec: Manifest) -> Path:
        """The folder that a run's storage is on this machine."""
        return Path(self.storage_uri(spec).removeprefix("file://"))

    def read_run(self, namespace: str, name: str) -> Manifest | None:
        """The run as last written, None if there is none of that name."""
        try:
            run: Manifest = json.loads((self.folder(namespace, name) / "run.json").read_bytes())
        except FileNotFoundError:
            return None
        return run

    def runs(self) -> list[Manifest]:
        """All runs, by namespace and name."""
        return [json.loads(file.read_bytes()) for file in sorted((self.root / "runs").glob("*/*/run.json"))]

    def write_run(self, run: Manifest) -> None:
        """Replace run.json: any crash leaves the one before or this one, whole."""
        folder = self.folder(run["metadata"]["namespace"], run["metadata"]["name"])
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / "run.json", json.dumps(run, indent=1).encode(), 0o644)

    def make_folders(self, namespace: str, name: str) -> None:
        """Make what a run's pods write to."""
        folder = self.folder(namespace, name)
        for each in ("logs", "termination"):
            (folder / each).mkdir(parents=True, exist_ok=True)
        (folder / "secrets").mkdir(mode=0o700, exist_ok=True)

    def append_event(self, namespace: str, name: str, event: Manifest) -> None:
        """Add a line to the run's events."""
        with open(self.folder(namespace, name) / "events.jsonl", "a") as file:
            file.write(json.dumps(event) + "\n")

    def open_log(self, folder: Path, pod: str) -> BinaryIO:
        """Open the file that a pod writes to."""
        return open(folder / "logs" / f"{pod}.log", "ab")

    def key(self) -> bytes:
        """The key of this home, made at first use."""
        file = self.root / "key"
        if not file.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            replace(file, secrets.token_bytes(32), 0o600)
        return file.read_bytes()

    @contextmanager
    def held(self, namespace: str, name: str) -> Iterator[None]:
        """Be the only one to drive the run; raises HeldError, with the holder's pid, if somebody else does.

        The kernel releases the lock with its holder, however that ends.
        """
        folder = self.folder(namespace, name)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise HeldError(f"process {file.read().strip()}") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def replace(path: Path, content: bytes, mode: int) -> None:
    """Put `content` at `path` by one rename, after it is on disk. Nobody whom `mode` shuts out ever sees it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
