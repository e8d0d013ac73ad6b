"""Ray's command, for as long as the process lives that starts it: `python -m …ray_main PARENT`, with its arguments as JSON on
standard input, once they are known; importing Ray takes seconds, and is done by then. So nothing else is imported here.
"""

import ctypes
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int) -> None:
    """Be `ray` with the arguments that come. The kernel asks this process to end when its parent does, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel knew
        sys.exit(1)
    from ray.scripts import scripts

    # Where grpcio is installed, a head would serve clients from anywhere, on a port of its own, and end without that server.
    scripts.get_ray_client_dependency_error = lambda: "nobody is to connect"
    sys.argv = ["ray", *json.loads(sys.stdin.readline())]
    scripts.main()


if __name__ == "__main__":
    main(int(sys.argv[1]))
