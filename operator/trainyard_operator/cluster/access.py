"""Where the API server is, who we are, and the HTTP sessions that carry both.

In a pod it is the mounted service account, elsewhere the current context of KUBECONFIG. kopf reads either; the
`kubernetes` package would do so too, at 126 MB of image and 25 MB of memory (kopf imports it where it is installed).
Tokens of service accounts rotate, so each request carries what the token's file said within the last minute.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import kopf
import yaml
from aiohttp.client_middlewares import ClientHandlerType
from yarl import URL

from .protocol import ConflictError, GoneError, Manifest

TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
TOKEN_SECONDS = 60
"""Age at which a token is read again, as client-go does."""

Answered = Callable[[str, URL, str], None]
"""Told of every request: its method, its URL, and the status code of the answer, or `<error>` if none came."""


class AccessError(Exception):
    """There is no way to reach or convince the API server; says what to do."""


def find_connection() -> kopf.ConnectionInfo:
    """The service account of this pod, else the current context of the kubeconfig."""
    settings = kopf.OperatorSettings()
    try:
        found = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    except OSError as error:
        raise AccessError(f"{error.filename}: {error.strerror}; set KUBECONFIG to a file that can be read") from None
    except kopf.LoginError:
        raise AccessError("the kubeconfig has no current context; `kubectl config use-context` sets one") from None
    except KeyError as error:
        raise AccessError(f"the kubeconfig names {error} and does not have it; correct its contexts") from None
    except (AttributeError, TypeError, ValueError, yaml.YAMLError):
        raise AccessError("what KUBECONFIG names is no kubeconfig; set it to one") from None
    if found is None:
        raise AccessError("no service account is mounted here and there is no kubeconfig; set KUBECONFIG to one")
    for file in (found.ca_path, found.certificate_path, found.private_key_path):
        if file and not os.access(file, os.R_OK):
            raise AccessError(f"{os.fsdecode(file)}: can't be read; correct the kubeconfig that names it")
    return found


class ApiError(Exception):
    """The API server refused a request, and not for a reason that the protocol names."""

    def __init__(self, what: str, code: int, reason: str, message: str) -> None:
        super().__init__(f"{what}: {code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message


class Access:
    """A way to one API server. `answered` is called for each request of each session."""

    def __init__(self, connection: kopf.ConnectionInfo, answered: Answered, token_file: Path = TOKEN_FILE) -> None:
        self.server = connection.server.rstrip("/")
        self._connection = connection
        self._answered = answered
        self._token_file = token_file if token_file.exists() else None
        self._headers = connection.as_http_headers()
        self._token_read = float("-inf")

    def session(self) -> aiohttp.ClientSession:
        """A new session, for its caller to close. Needs a running event loop."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._connection.as_ssl_context()),
            headers={"User-Agent": "trainyard-operator"},
            proxy=self._connection.proxy_url,
            middlewares=(self._carry,),
        )

    async def _carry(self, request: aiohttp.ClientRequest, send: ClientHandlerType) -> aiohttp.ClientResponse:
        request.headers.update(self._current_headers())
        try:
            response = await send(request)
        except (aiohttp.ClientError, TimeoutError):
            self._answered(request.method, request.url, "<error>")
            raise
        self._answered(request.method, request.url, str(response.status))
        return response

    def _current_headers(self) -> dict[str, str]:
        if self._token_file and time.monotonic() - self._token_read >= TOKEN_SECONDS:
            self._headers = {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
            self._token_read = time.monotonic()
        return self._headers


async def read_object(what: str, answer: aiohttp.ClientResponse) -> Manifest:
    """The object that answers the request `what`; raises what a `Status` object that tells of a failure means.

    An answer that isn't JSON is a proxy's page: an ApiError with its text.
    """
    text = await answer.text()
    try:
        content: Manifest = json.loads(text)
    except ValueError:
        content = {"message": text[:200]}
    if answer.status < 400:
        return content
    message = content.get("message", "")
    if answer.status == 409:
        raise ConflictError(f"{what}: {message}")
    if answer.status == 404:
        raise GoneError(f"{what}: {message}")
    raise ApiError(what, answer.status, content.get("reason", ""), message)
