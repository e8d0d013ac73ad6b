"""Whether a storage can be used at all, found out before anything is made."""

import errno

from .storage import Storage

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
"""Errors of a storage that no waiting makes writable."""
_PROBED = b"a few bytes"


def probe(storage: Storage, name: str = ".writable") -> None:
    """Write to the storage, read it back, and leave nothing; OSError if that doesn't work."""
    storage.write(name, _PROBED)
    if storage.read(name) != _PROBED:
        raise OSError(errno.EIO, "reads back otherwise than it was written", f"{storage.uri}/{name}")
    storage.remove(name)


def lasting(error: OSError) -> bool:
    """Whether it is the user who must change something. A file that isn't there, of a write, is a bucket that isn't."""
    return error.errno in (*UNWRITABLE, errno.ENOENT)


def remedy(error: OSError) -> str:
    """What to do about an object store that refuses."""
    if error.errno == errno.ENOENT:
        return "create the bucket, or correct its name"
    return (
        "correct the credentials (AWS_… in the Secret that spec.storage.secretName names, or in your environment), or what "
        "they may do"
    )
