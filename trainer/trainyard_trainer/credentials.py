"""What a rank and the agents of its run know each other by: the files of the run's Secret, which its environment names."""

import os
import ssl
from functools import cache
from pathlib import Path

from trainyard_api.tls import trusting


def token() -> str:
    """What this run's agents ask of whoever speaks to them."""
    return Path(os.environ["TRAINYARD_TOKEN_FILE"]).read_text().strip()


@cache
def trust() -> ssl.SSLContext | None:
    """Trust in this run's agents; None where they speak plain HTTP."""
    file = os.environ.get("TRAINYARD_TLS_FILE")
    return trusting(Path(file).read_text()) if file else None
