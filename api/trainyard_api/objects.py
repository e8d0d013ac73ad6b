"""Object stores, as fsspec knows them: S3 with multipart uploads and time-outs of its own, others as they come.

Whatever the client libraries raise becomes an OSError that names the URI. A store that does not answer fails within half a
minute (3 more tries on the way); nothing waits for ever.
"""

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

PART_BYTES = 8 * 1024 * 1024
"""Of a large transfer, so many bytes are one request; `PARALLEL` of them are under way at once."""
PARALLEL = 4
_PARTS = 10_000
"""S3 takes no more of them."""
_SECONDS = 30.0
"""For a request with all its retries, per PART_BYTES: slower than 1 MiB/s is as good as dead."""
_S3 = {
    "use_listings_cache": False,  # others write here too
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 15,
        "retries": {"mode": "standard", "total_max_attempts": 4},
        "max_pool_connections": 4 * PARALLEL,
    },
}


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
        return all_of(content, start, stop, self._below(self._uri, path))

    def write(self, path: str, content: bytes | memoryview) -> None:
        with self._told(path):
            if len(content) > PART_BYTES and hasattr(self._store, "call_s3"):
                self._write_parts(self._key(path), memoryview(content))
            else:
                self._ask("pipe_file", self._key(path), bytes(content), size=len(content))

    def remove(self, path: str) -> None:
        """One by one: a bulk deletion would not say which it refused."""
        with self._told(path), ThreadPoolExecutor(PARALLEL) as pool:
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

        pool = ThreadPoolExecutor(PARALLEL)
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


def all_of(content: bytes, start: int, stop: int, where: str) -> bytes:
    """The content, if it is bytes [start, stop) of what lies there; else OSError."""
    if len(content) != stop - start:
        raise OSError(errno.EIO, f"ends at byte {start + len(content)}, before {stop}", where)
    return content
