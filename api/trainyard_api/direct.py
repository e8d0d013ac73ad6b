"""Writing a large file past the page cache: 0.02 s of CPU for 350 MB instead of 0.1 to 0.9 s, which training gets instead.

Nor does a checkpoint push what training reads, token shards and weights, out of memory. Where the file system or the memory's
alignment doesn't allow it, the kernel says so at the first write, and the rest goes the usual way.
"""

import errno
import fcntl
import os

BLOCK = 4096
"""Direct writes begin, end and lie in memory at multiples of it."""
SMALLEST = 1024 * 1024
"""Less is not worth it."""
PIECE_BYTES = 8 * 1024 * 1024
"""Of one write."""
_O_DIRECT = getattr(os, "O_DIRECT", 0)
"""macOS has none, where only the CLI runs."""


def write_all(descriptor: int, content: memoryview) -> None:
    """Write it at the descriptor's position, whole. Raises OSError as the file system does."""
    direct = len(content) >= SMALLEST and _set_direct(descriptor, True)
    while content:
        if direct and len(content) < BLOCK:
            direct = _set_direct(descriptor, False)
        most = min(PIECE_BYTES, len(content) // BLOCK * BLOCK) if direct else PIECE_BYTES
        try:
            content = content[os.write(descriptor, content[:most]) :]
        except OSError as error:
            if not direct or error.errno != errno.EINVAL:
                raise
            direct = _set_direct(descriptor, False)


def _set_direct(descriptor: int, direct: bool) -> bool:
    """Switch it on or off; returns whether it is on now."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    wanted = flags | _O_DIRECT if direct else flags & ~_O_DIRECT
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, wanted)
    except OSError:
        return False
    return direct
