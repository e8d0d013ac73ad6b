"""Files that a stage appends to, metrics.jsonl above all: in storage where that is a folder, else in scratch, and put whole.

An object store can't append, so there the file is put after each checkpoint, behind training, and once more when the stage
ends or stops; an attempt that resumes goes on from the file as it is there. Lines lost with a pod are of steps that are
done again. Lines that can't be written now are written later: storage that fails is no reason to stop training.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from ..group import Group
from ..scratch import is_folder

NAME = "metrics.jsonl"
_UNWRITTEN_BYTES = 4 * 1024 * 1024
"""Of lines that are kept in memory while they can't be written; more are dropped."""


class MetricsFile:
    """The file of one attempt, for rank 0 alone."""

    def __init__(self, group: Group, name: str = NAME) -> None:
        """Take up what the attempts before have written."""
        self._name = name
        self._path = group.output / name
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._unwritten = b""
        self._storage = None if is_folder(group.job.output_uri) else group.storage
        self._putting: Future[None] | None = None
        if self._storage:
            self._thread = ThreadPoolExecutor(1, "metrics")
            with suppress(FileNotFoundError):
                self._path.write_bytes(self._storage.read(name))

    def append(self, line: bytes) -> None:
        """Add a line, after what is left from before; one that was written in part is continued."""
        if len(self._unwritten) < _UNWRITTEN_BYTES:
            self._unwritten += line
        with suppress(OSError), open(self._path, "ab", buffering=0) as file:
            while self._unwritten:
                self._unwritten = self._unwritten[file.write(self._unwritten) :]

    def put(self) -> None:
        """Begin to put it to storage, unless that is under way: the next time takes these lines along."""
        if self._storage and (self._putting is None or self._putting.done()):
            self._putting = self._thread.submit(self._put)

    def close(self) -> None:
        """Put it to storage; raises OSError if that fails."""
        if self._storage:
            self._thread.submit(self._put).result()

    def _put(self) -> None:
        if self._storage and self._path.exists():
            self._storage.write(self._name, self._path.read_bytes())
