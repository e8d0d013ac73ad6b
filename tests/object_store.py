"""An S3 server, moto's, as a process of its own: what tests of storage talk to over HTTP."""

import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from conditions import eventually

BUCKET = "training"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class ObjectStore:
    """A server that runs, with a bucket."""

    process: int
    endpoint: str

    @property
    def environment(self) -> Mapping[str, str]:
        """What its clients need."""
        return CREDENTIALS | {"AWS_ENDPOINT_URL": self.endpoint}

    def uri(self, path: str) -> str:
        return f"s3://{BUCKET}/{path}"


@contextmanager
def object_store(host: str = "127.0.0.1") -> Iterator[ObjectStore]:
    """Run one for as long as the block does."""
    port = free_port()
    endpoint = f"http://{host}:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
        try:
            eventually(lambda: _answers(endpoint), 60, "the S3 server")
            bucket = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
            urllib.request.urlopen(bucket, timeout=10).close()
            yield ObjectStore(server.pid, endpoint)
        finally:
            server.kill()
            server.wait()


@contextmanager
def connected_to(server: ObjectStore) -> Iterator[None]:
    """Give this process, and those that it starts, the server's address and credentials."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # it holds the endpoint of another test
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=2).close()
    except OSError:
        return False
    return True
