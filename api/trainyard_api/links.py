"""Personal links: who an annotator is, said by the link alone, without accounts or passwords.

A token is `v1.CLAIMS.SIGNATURE`, both base64url: the claims as JSON and their HMAC-SHA256 under the run's key. Who has the key
can make links without the server; the server needs no table of them. A link ends when it expires, or when its annotator is
revoked (database.revoke): then every link issued before that moment is refused, and later ones work.
A scripted rater's link states its rule, so all of its votes are marked with it: they can't be taken for a person's.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from dataclasses import dataclass

_VERSION = "v1"
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


class LinkError(Exception):
    """A link that lets nobody in; str(e) says why, for the annotator."""


@dataclass(frozen=True)
class Claims:
    """What a link says. Times are seconds since 1970; `rule` is empty for a person."""

    annotator: str
    expires: float
    issued: float
    rule: str = ""


def sign(key: bytes, annotator: str, expires: float, *, issued: float | None = None, rule: str = "") -> str:
    """The token of a link for `annotator` that works until `expires`. ValueError for a name that can't be shown."""
    if not _NAME.fullmatch(annotator):
        raise ValueError(f"annotator {annotator!r}: a name has 1 to 100 characters, none of them control characters")
    claims = {"a": annotator, "e": round(expires, 3), "i": round(time.time() if issued is None else issued, 3)}
    written = _encode(json.dumps(claims | ({"r": rule} if rule else {}), separators=(",", ":")).encode())
    return f"{_VERSION}.{written}.{_encode(_signature(key, written))}"


def verify(key: bytes, token: str, now: float | None = None) -> Claims:
    """What the link says. LinkError if it is forged, broken or expired."""
    version, _, rest = token.partition(".")
    written, _, signature = rest.partition(".")
    if version != _VERSION or not hmac.compare_digest(_encode(_signature(key, written)).encode(), signature.encode()):
        raise LinkError("This link is not valid. Please copy it whole, or ask for a new one.")
    try:
        claims = json.loads(_decode(written))
        said = Claims(str(claims["a"]), float(claims["e"]), float(claims["i"]), str(claims.get("r", "")))
    except (ValueError, KeyError, TypeError, binascii.Error):  # ours by its signature, of another version
        raise LinkError("This link is not valid. Please ask for a new one.") from None
    if said.expires <= (time.time() if now is None else now):
        raise LinkError("This link has expired. Please ask for a new one.")
    return said


def links_key(token: str) -> bytes:
    """The key of a run's links: it follows from its agents' bearer token, which whoever may manage the run can read."""
    return hmac.new(token.encode(), b"links", hashlib.sha256).digest()


def form_token(key: bytes, annotator: str) -> str:
    """What each form of an annotator's page carries, so that no other site can send it for them (CSRF)."""
    return hmac.new(key, f"form {annotator}".encode(), hashlib.sha256).hexdigest()


def manager_token(key: bytes) -> str:
    """The bearer token with which whoever has the key asks for figures and votes, and voids links."""
    return hmac.new(key, b"manage", hashlib.sha256).hexdigest()


def _signature(key: bytes, written: str) -> bytes:
    return hmac.new(key, f"link {written}".encode(errors="surrogatepass"), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
