"""What the operator tells an agent through its pod's environment."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from trainyard_api.names import MASTER_PORT, TERMINATION_LOG, TOKEN_FILE


@dataclass(frozen=True)
class Environment:
    """An agent's own settings; what its ranks are to do comes later, as an assignment."""

    bind: str
    """Address to listen on."""
    token_file: Path
    tls_file: Path | None
    """Key and certificate of this run's agents; None where they speak plain HTTP."""
    master_port: int
    """Port for rank 0 to be found on; 0 to pick a free one."""
    termination_log: Path
    grace_seconds: float
    """From SIGTERM to the SIGKILL of this process."""
    kind: str
    """Of the stage that ranks will run; empty where that isn't known yet."""
    labels: dict[str, str]
    """namespace, run and stage, for metrics."""

    @classmethod
    def read(cls, variables: Mapping[str, str] = os.environ) -> "Environment":
        """The settings of this process."""
        return cls(
            bind=variables.get("TRAINYARD_BIND", "0.0.0.0"),  # noqa: S104 a pod has one address, its own
            token_file=Path(variables.get("TRAINYARD_TOKEN_FILE", TOKEN_FILE)),
            tls_file=Path(file) if (file := variables.get("TRAINYARD_TLS_FILE")) else None,
            master_port=int(variables.get("TRAINYARD_MASTER_PORT", MASTER_PORT)),
            termination_log=Path(variables.get("TRAINYARD_TERMINATION_LOG", TERMINATION_LOG)),
            grace_seconds=float(variables.get("TRAINYARD_GRACE_SECONDS", 60)),
            kind=variables.get("TRAINYARD_KIND", ""),
            labels={name: variables.get(f"TRAINYARD_{name.upper()}", "") for name in ("namespace", "run", "stage")},
        )

    @property
    def on_loopback(self) -> bool:
        """Whether all of the group is on this machine."""
        return ip_address(self.bind).is_loopback

    @property
    def save_seconds(self) -> float:
        """How long ranks may take to save and leave: 5 s less than the grace period, for us to explain the end."""
        return max(self.grace_seconds - 5, self.grace_seconds / 2)


def hold_port(wanted: int) -> tuple[int, socket.socket | None]:
    """The port for rank 0's store; one that we picked is held, bound, until the ranks start.

    On all addresses, for that is where torch's TCPStore listens.
    """
    if wanted:
        return wanted, None
    held = socket.socket()
    held.bind(("", 0))
    return held.getsockname()[1], held


def hold_port_again(port: int) -> tuple[int, socket.socket]:
    """The port that ranks have had, held for the next ones; another one if somebody has taken it."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of dead ranks linger on it
    try:
        held.bind(("", port))
    except OSError:
        held.close()
        held = socket.socket()
        held.bind(("", 0))
    return held.getsockname()[1], held
