"""Where checkpoints and artifacts lie: folders of this machine and object stores, through one small set of verbs.

Both make the same promise, the only one that the layout of a checkpoint needs: what `write` has put is whole, durable and
visible to everyone when it returns, and never half there before. There is no rename, no lock and no append, for object
stores have none; whoever needs an order writes the thing that counts last.

Errors are OSErrors that name the URI, also an object store's: FileNotFoundError, PermissionError, else what a retry may
mend. A store that does not answer fails within half a minute (3 more tries on the way); nothing waits for ever.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from .direct import write_all

PART_BYTES = 8 * 1024 * 1024
"""Of a large transfer, so many bytes are one request; `_PARALLEL` of them are under way at once."""
_PARALLEL = 4
_PARTS = 10_000
"""S3 takes no more of them."""
_SECONDS = 30.0
"""For a request with all its retries, per PART_BYTES: slower than 1 MiB/s is as good as dead."""
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}")
"""What a file is called until it is whole."""
_S3 = {
    "use_listings_cache": False,  # others write here too
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 15,
        "retries": {"mode": "standard", "total_max_attempts": 4},
        "max_pool_connections": 4 * _PARALLEL,
    },
}


class Storage(Protocol):
    """A place to keep things at. Paths are relative to it, with '/' between their parts."""

    @property
    def uri(self) -> str:
        """Of the place itself, without a '/' at its end."""

    def at(self, path: str) -> "Storage":
        """The place below it."""

    def names(self, path: str = "") -> list[str]:
        """What lies at `path`, things and folders, sorted; [] if nothing does. Names that begin with a dot are no one's."""

    def size(self, path: str) -> int:
        """Bytes of the thing."""

    def sizes(self, path: str = "") -> dict[str, int]:
        """Bytes of every thing below `path`, however deep, by the path from there; {} if there is none."""

    def read(self, path: str) -> bytes:
        """The whole of a small thing; use `read_into` for a large one."""

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of it; OSError if it ends before."""

    def write(self, path: str, content: bytes | memoryview) -> None:
        """Put it there, in place of what was there, whole and durable on return."""

    def remove(self, path: str) -> None:
        """Delete the thing, or all that is below it; what isn't there is fine."""

    def tidy(self, over: Callable[[str], bool]) -> None:
        """Delete what writes have left that were cut off, of the things below for which `over(path)`: nobody sees it, but
        it takes room. A write of one of those that is under way all the same fails.
        """


def open_storage(uri: str) -> Storage:
    """The place that a URI names; ValueError if this installation can't open it."""
    if uri.startswith("file://"):
        return Files(Path(uri.removeprefix("file://")))
    return Objects(uri)


def read_into(storage: Storage, path: str, into: memoryview, start: int = 0) -> None:
    """Fill `into` with the bytes of the thing from `start` on, several parts at once."""

    def fill(first: int) -> None:
        last = min(first + PART_BYTES, len(into))
        into[first:last] = storage.read_range(path, start + first, start + last)

    with ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(fill, range(0, len(into), PART_BYTES)))


class Files:
    """A folder. What is written goes to a file beside its place, is synced, and takes its name by one rename."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def uri(self) -> str:
        return f"file://{self.folder}"

    def at(self, path: str) -> "Files":
        return Files(self.folder / path)

    def names(self, path: str = "") -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.folder / path) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def size(self, path: str) -> int:
        return (self.folder / path).stat().st_size

    def sizes(self, path: str = "") -> dict[str, int]:
        top = self.folder / path
        files = (Path(folder, name) for folder, _, names in os.walk(top) for name in names)
        return dict(sorted((file.relative_to(top).as_posix(), file.stat().st_size) for file in files))

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        file = self.folder / path
        with open(file, "rb", buffering=0) as opened:
            opened.seek(start)
            content = b"".join(iter(lambda: opened.read(stop - opened.tell()), b""))
        return _all_of(content, start, stop, str(file))

    def write(self, path: str, content: bytes | memoryview) -> None:
        file = self.folder / path
        _make(file.parent)
        temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb", buffering=0) as opened:
                write_all(opened.fileno(), memoryview(content))
                os.fsync(opened.fileno())
            os.replace(temporary, file)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(file.parent)

    def remove(self, path: str) -> None:
        place = self.folder / path
        with suppress(FileNotFoundError):
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    def tidy(self, over: Callable[[str], bool]) -> None:
        for folder, _, names in os.walk(self.folder):
            for temporary in filter(None, map(_TEMPORARY.fullmatch, names)):
                if over(Path(folder, temporary[1]).relative_to(self.folder).as_posix()):
                    Path(folder, temporary[0]).unlink(missing_ok=True)


class Objects:
    """A prefix of an object store that fsspec knows. Credentials and endpoint of S3 come from AWS_… in the environment."""

    def __init__(self, uri: str, store: Any = None) -> None:
        """`store` is fsspec's, if it is open already."""
        self._uri = uri.rstrip("/")
        self._store = store or _connect(self._uri)
        self._root: str = self._store._strip_protocol(self._uri)

    @property
    def uri(self) -> str:
        return self._uri

    def at(self, path: str) -> "Objects":
        return Objects(self._below(self._uri, path), self._store)

    def names(self, path: str = "") -> list[str]:
        prefix = self._key(path)
        with self._told(path):
            try:
                found = self._ask("ls", prefix, detail=False)
            except FileNotFoundError as error:
                if error.__cause__:  # the store says so, of the bucket; s3fs alone does of an empty prefix
                    raise
                return []
        names = (key.removeprefix(f"{prefix}/") for key in found if key.startswith(f"{prefix}/"))
        return sorted(name for name in names if name and not name.startswith("."))

    def size(self, path: str) -> int:
        with self._told(path):
            known = self._ask("info", self._key(path))
            if known["type"] != "file":
                raise FileNotFoundError("no such object")
            return int(known["size"])

    def sizes(self, path: str = "") -> dict[str, int]:
        prefix = f"{self._key(path)}/"
        with self._told(path):
            found = self._ask("find", prefix, detail=True)
        files = {key: known for key, known in found.items() if known["type"] == "file" and not key.endswith("/")}
        return {
            key.removeprefix(prefix): known["size"] for key, known in sorted(files.items()) if key.startswith(prefix)
        }

    def read(self, path: str) -> bytes:
        with self._told(path):
            return bytes(self._ask("cat_file", self._key(path)))

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        with self._told(path):
            content = bytes(self._ask("cat_file", self._key(path), start=start, end=stop, size=stop - start))
        return _all_of(content, start, stop, self._below(self._uri, path))

    def write(self, path: str, content: bytes | memoryview) -> None:
        with self._told(path):
            if len(content) > PART_BYTES and hasattr(self._store, "call_s3"):
                self._write_parts(self._key(path), memoryview(content))
            else:
                self._ask("pipe_file", self._key(path), bytes(content), size=len(content))

    def remove(self, path: str) -> None:
        """One by one: a bulk deletion would not say which it refused."""
        with self._told(path), ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda key: self._ask("rm_file", key), self._ask("find", self._key(path))))

    def tidy(self, over: Callable[[str], bool]) -> None:
        """Parts of large things that were never put together. Other stores than S3 show none."""
        if not hasattr(self._store, "call_s3"):
            return
        bucket, key, _ = self._store.split_path(self._root)
        prefix = f"{key}/" if key else ""
        with self._told(""):
            for upload in self._uploads(bucket, prefix):
                if over(upload["Key"].removeprefix(prefix)):
                    where = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                    with suppress(FileNotFoundError):  # it has come to its end meanwhile
                        self._ask("call_s3", "abort_multipart_upload", **where)

    def _uploads(self, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
        """Those that have begun and not ended."""
        after: dict[str, Any] = {}
        while True:
            page = self._ask("call_s3", "list_multipart_uploads", Bucket=bucket, Prefix=prefix, **after)
            yield from page.get("Uploads", [])
            if not page.get("IsTruncated"):
                return
            after = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _write_parts(self, key: str, content: memoryview) -> None:
        """As S3 takes large things; only the parts that are under way are copied, and none is seen before the last."""
        bucket, name, _ = self._store.split_path(key)
        where = {"Bucket": bucket, "Key": name}
        where["UploadId"] = self._ask("call_s3", "create_multipart_upload", **where)["UploadId"]
        size = max(PART_BYTES, -(-len(content) // _PARTS))

        def put(number: int) -> dict[str, Any]:
            part = bytes(content[number * size : (number + 1) * size])
            done = self._ask("call_s3", "upload_part", **where, PartNumber=number + 1, Body=part, size=size)
            return {"PartNumber": number + 1, "ETag": done["ETag"]}

        pool = ThreadPoolExecutor(_PARALLEL)
        try:
            parts = {"Parts": list(pool.map(put, range(-(-len(content) // size))))}
            self._ask("call_s3", "complete_multipart_upload", **where, MultipartUpload=parts)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            with suppress(Exception):  # what went wrong before is what to tell
                self._ask("call_s3", "abort_multipart_upload", **where)
            raise
        finally:
            pool.shutdown()

    def _ask(self, verb: str, *arguments: Any, size: int = 0, **named: Any) -> Any:
        """A request of the store, about so many bytes. Only stores on a network take a time-out, and all of those do."""
        if self._store.async_impl:
            named["timeout"] = _SECONDS * max(1, size / PART_BYTES)
        return getattr(self._store, verb)(*arguments, **named)

    def _key(self, path: str) -> str:
        return self._below(self._root, path)

    @staticmethod
    def _below(root: str, path: str) -> str:
        return f"{root}/{path}" if path else root

    @contextmanager
    def _told(self, path: str) -> Iterator[None]:
        """Whatever the client library raises means that storage failed: an OSError that says where, and of which kind."""
        try:
            yield
        except Exception as error:
            known = error.__cause__ or error
            text = " ".join(str(known).split()) or type(known).__name__
            raise OSError(_errno(error), text, self._below(self._uri, path)) from error


def _connect(uri: str) -> Any:
    scheme = uri.partition("://")[0]
    try:
        import fsspec

        if scheme not in ("s3", "s3a"):
            return fsspec.filesystem(scheme)
        store = fsspec.filesystem(scheme, **_S3)
    except (ImportError, ValueError) as error:
        remedy = "pip install 'trainyard[s3]'" if scheme.startswith("s3") else error
        raise ValueError(f"{uri}: this installation can't open {scheme}://; {remedy}") from error
    store.retries = 2  # of its own, around botocore's: for an answer that breaks off
    return store


def _errno(error: Exception) -> int:
    """What the errors of s3fs and botocore amount to."""
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return errno.EACCES
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return errno.ETIMEDOUT
    return errno.EIO


def _all_of(content: bytes, start: int, stop: int, where: str) -> bytes:
    if len(content) != stop - start:
        raise OSError(errno.EIO, f"ends at byte {start + len(content)}, before {stop}", where)
    return content


def _make(folder: Path) -> None:
    """Make the folder and those above it, each a name that lasts."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in it last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
