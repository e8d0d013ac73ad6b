"""`trainyard collect`: personal links to the page on which people compare responses, and how far they are.

The page is found as agents are: by its run's processes on this machine. Its key follows from the token of the run's agents.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard_api.collect_settings import COLLECT_PORT
from trainyard_api.links import links_key, manager_token, sign

from ..cluster import processes
from ..cluster.home import Home
from .get import selected
from .inputs import InputError

_DAY_SECONDS = 86_400
_ANSWER_SECONDS = 30


@dataclass(frozen=True)
class _Page:
    """Where a run's page is, and what lets one in."""

    url: str
    key: bytes

    def ask(self, path: str, form: dict[str, str] | None = None) -> Any:
        """What it answers whoever manages it."""
        body = urllib.parse.urlencode(form).encode() if form is not None else None
        headers = {"Authorization": f"Bearer {manager_token(self.key)}"}
        request = urllib.request.Request(f"{self.url}{path}", body, headers)  # noqa: S310 - http
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310
                return json.loads(answer.read())
        except (OSError, ValueError) as error:
            raise InputError(f"{self.url}: {error}; `trainyard get` says whether the run is collecting") from None


def links_command(options: argparse.Namespace) -> int:
    """Print `NAME LINK` for each."""
    return _with_page(options, lambda page: _links(page, options))


def status_command(options: argparse.Namespace) -> int:
    """Print the figures as JSON."""
    return _with_page(options, lambda page: print(json.dumps(page.ask("/manage/status"), indent=1)))


def revoke_command(options: argparse.Namespace) -> int:
    """Void links."""
    return _with_page(
        options, lambda page: [page.ask("/manage/revoke", {"annotator": it}) for it in options.annotators]
    )


def _with_page(options: argparse.Namespace, do: Any) -> int:
    try:
        do(_page(options))
    except (InputError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _links(page: _Page, options: argparse.Namespace) -> None:
    base = (options.url or page.url).rstrip("/")
    for name in options.annotators:
        token = sign(page.key, name, time.time() + options.days * _DAY_SECONDS, rule=options.rule)
        print(f"{name} {base}/enter/{token}")


def _page(options: argparse.Namespace) -> _Page:
    home = Home(options.home)
    runs = selected(home, options.namespace, options.run)
    if len(runs) != 1:
        where = "is in several namespaces; use --namespace" if runs else f"is not in {home.root}; use --home"
        raise InputError(f"run {options.run} {where}")
    pods = processes.pods(f"{runs[0]['metadata']['uid']}/")
    collecting = [variables for variables in pods.values() if variables.get("TRAINYARD_KIND") == "collect"]
    if not collecting:
        raise InputError(f"run {options.run} collects nothing now; `trainyard get {options.run}` says where it is")
    token = Path(collecting[0]["TRAINYARD_TOKEN_FILE"]).read_text().strip()
    return _Page(f"http://{collecting[0]['TRAINYARD_BIND']}:{COLLECT_PORT}", links_key(token))
