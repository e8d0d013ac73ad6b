"""Where agents answer, and what they and we know each other by.

A run's token and, with TLS, its key and certificate follow from the operator's key and the run's UID: every operator knows
them, before and after a restart, and none reads a Secret. A pod's label says whether its agent speaks TLS, so that changing
the setting leaves those that run alone.
"""

import hashlib
import hmac
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from trainyard_api.names import AGENT_PORT, LABEL_TLS, TLS_FILE, TOKEN_FILE
from trainyard_api.tls import trusting

from .protocol import Manifest

RUNS = 4096
"""Of which the SSL contexts are kept: 1 ms to make, 20 KB."""


class AgentAccess:
    """What follows from the operator's key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._trust: Callable[[str], ssl.SSLContext] = lru_cache(RUNS)(lambda uid: trusting(self.identity(uid)))

    def token(self, uid: str) -> str:
        """The bearer token of a run's agents: HMAC-SHA256 of the run's UID under the operator's key."""
        return self._derived(uid).hex()

    def identity(self, uid: str) -> str:
        """Key and certificate of a run's agents, as PEM: an Ed25519 key, for its signatures are always the same."""
        # Imported where it is used: 13 MB of memory and 0.3 s.
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = Ed25519PrivateKey.from_private_bytes(self._derived(f"{uid} key"))
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, uid)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(
                datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
            )  # of no end, says RFC 5280: it goes with its run
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(key, algorithm=None)
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return (private + certificate.public_bytes(Encoding.PEM)).decode()

    def secret(self, uid: str, *, tls: bool) -> dict[str, str]:
        """What the Secret of a run's agents holds, by file."""
        return {_name(TOKEN_FILE): self.token(uid)} | ({_name(TLS_FILE): self.identity(uid)} if tls else {})

    def request(self, pod: Manifest, uid: str) -> dict[str, Any]:
        """What a request to a pod's agent is to have: the run's token, and trust in its certificate."""
        trust = {"ssl": self._trust(uid)} if speaks_tls(pod) else {}
        return {"headers": {"Authorization": f"Bearer {self.token(uid)}"}, **trust}

    def _derived(self, what: str) -> bytes:
        return hmac.new(self._key, what.encode(), hashlib.sha256).digest()


def speaks_tls(labelled: Manifest) -> bool:
    """Whether a pod's agent serves HTTPS, or a Secret is for such ones."""
    return bool(labelled["metadata"].get("labels", {}).get(LABEL_TLS) == "true")


def agent_url(pod: Manifest) -> str:
    """Where the pod's agent answers, e.g. http://10.0.0.7:9400."""
    address: str = pod["status"]["podIP"]
    scheme = "https" if speaks_tls(pod) else "http"
    return f"{scheme}://[{address}]:{AGENT_PORT}" if ":" in address else f"{scheme}://{address}:{AGENT_PORT}"


def _name(file: str) -> str:
    return file.rpartition("/")[2]
