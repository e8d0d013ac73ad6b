"""The page's server as a process that tests start, kill and start again."""

import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from conditions import eventually


class Serving:
    """A server of `items` on `port`; as a context, it is there until the end. Keep the port to start it again."""

    def __init__(self, url: str, items: int, overlap: int, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        program = Path(__file__).with_name("collecting_server.py")
        self._command = [sys.executable, str(program), url, str(self.port), str(items), str(overlap)]
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes requests."""
        self._log.write_bytes(b"")
        with open(self._log, "wb") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output)
        eventually(lambda: b"ready" in self._log.read_bytes(), 60, "the server is ready", self._log.read_text)

    def kill(self) -> None:
        """SIGKILL, as a lost machine does it."""
        if self.process:
            self.process.kill()
            self.process.wait(20)

    def ended(self) -> str:
        """What it said, once it has ended by itself."""
        assert self.process
        assert self.process.wait(30) == 0, self._log.read_text()
        return self._log.read_text()

    def __enter__(self) -> "Serving":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
