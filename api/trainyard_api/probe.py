"""Whether a storage can be used at all, found out before anything is made."""

import errno

from .storage import Storage

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
"""Errors of a storage that no waiting makes writable."""
_PROBE = ".writable"


def probe(storage: Storage) -> None:
    """Write to the storage, and leave nothing; OSError if that doesn't work."""
    storage.write(_PROBE, b"")
    storage.remove(_PROBE)


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
