"""`trainyard collect`: personal links to the page on which people compare responses, and how far they are.

A run of this machine is found as its agents are, by their processes; one of the cluster by `kubectl port-forward`, which lasts
for as long as the command does. The page's key follows from the token of the run's agents: who may read that may let people in.
"""

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard_api.collect_settings import COLLECT_PORT, CollectStage
from trainyard_api.links import links_key, manager_token, sign
from trainyard_api.names import LABEL_STAGE
from trainyard_api.run import TrainingRun

from ..cluster import processes
from ..cluster.home import Home
from ..cluster.protocol import Manifest
from .applied import applied
from .get import selected
from .inputs import InputError

_DAY_SECONDS = 86_400
_ANSWER_SECONDS = 30
_PATIENCE_SECONDS, _LOOK_SECONDS = 600.0, 0.5
"""For a page that is not served yet, and between two looks."""


@dataclass(frozen=True)
class _Page:
    """Where a run's page is, and what lets one in."""

    url: str
    """From this machine, while the command lasts."""
    key: bytes
    others_url: str
    """From elsewhere, at any time; empty where there is no such way."""

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

    def until_served(self) -> None:
        """Wait until it answers: responses may still be drawn."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self.ask("/manage/status")
                return
            except InputError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_SECONDS)

    def print_links(self, url: str, names: list[str], options: argparse.Namespace) -> None:
        """`NAME LINK` for each, by this address."""
        for name in names:
            token = sign(self.key, name, time.time() + options.days * _DAY_SECONDS, rule=options.rule)
            print(name, f"{url.rstrip('/')}/enter/{token}", flush=True)


def links_command(options: argparse.Namespace) -> int:
    """Print a link for each, by the address that others reach the page at."""

    def links(page: _Page) -> None:
        if not (url := options.url or page.others_url):
            raise InputError(
                "nothing leads to the page from outside of the cluster: set collect.ingress in the run, or name with --url "
                "where you have published it; `trainyard collect open` forwards a port for as long as it runs"
            )
        page.print_links(url, options.annotators, options)

    return _with_page(options, links)


def open_command(options: argparse.Namespace) -> int:
    """Print the links, and keep the page within reach until interrupted."""

    def reach(page: _Page) -> None:
        page.until_served()
        page.print_links(options.url or page.url, options.annotators or ["me"], options)
        print(f"{page.url}: Ctrl-C ends the way there", file=sys.stderr)
        while True:
            page.ask("/manage/status")
            time.sleep(_ANSWER_SECONDS)

    return _with_page(options, reach)


def status_command(options: argparse.Namespace) -> int:
    """Print the figures as JSON."""
    return _with_page(options, lambda page: print(json.dumps(page.ask("/manage/status"), indent=1)))


def revoke_command(options: argparse.Namespace) -> int:
    """Void links."""

    def revoke(page: _Page) -> None:
        for name in options.annotators:
            page.ask("/manage/revoke", {"annotator": name})
            print(f"links of {name} let nobody in any more")

    return _with_page(options, revoke)


def _with_page(options: argparse.Namespace, do: Callable[[_Page], None]) -> int:
    try:
        with _page(options) as page:
            do(page)
    except (InputError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


@contextmanager
def _page(options: argparse.Namespace) -> Iterator[_Page]:
    here = selected(Home(options.home), options.namespace, options.run)
    if len(here) > 1:
        raise InputError(f"run {options.run} is in several namespaces; use --namespace")
    if here:
        yield _page_here(here[0], options.run)
        return
    namespace, pod, token, others_url = asyncio.run(_pod_of_cluster(options))
    command = ["kubectl", "--namespace", namespace, "port-forward", f"pod/{pod}", f":{COLLECT_PORT}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
        try:
            said = forwarding.stdout.readline() if forwarding.stdout else ""
            if not said.startswith("Forwarding from 127.0.0.1:"):
                raise InputError(f"kubectl port-forward to pod {pod} of {namespace}: {said or 'ended'}")
            port = said.split(":")[1].split()[0]
            yield _Page(f"http://127.0.0.1:{port}", links_key(token), others_url)
        finally:
            forwarding.terminate()


def _page_here(run: Manifest, name: str) -> _Page:
    pods = processes.pods(f"{run['metadata']['uid']}/")
    collecting = [variables for variables in pods.values() if variables.get("TRAINYARD_KIND") == "collect"]
    if not collecting:
        raise InputError(f"run {name} collects nothing now; `trainyard get {name}` says where it is")
    token = Path(collecting[0]["TRAINYARD_TOKEN_FILE"]).read_text().strip()
    url = f"http://{collecting[0]['TRAINYARD_BIND']}:{COLLECT_PORT}"
    return _Page(url, links_key(token), others_url=url)


async def _pod_of_cluster(options: argparse.Namespace) -> tuple[str, str, str, str]:
    """Namespace, pod and token of a run of the cluster that is collecting, and the address that its Ingress has."""
    async with applied(options.namespace, options.run) as there:
        manifest = await there.read()
        run = TrainingRun.read_stored({**manifest, "status": None})
        stages = {stage.name: stage.settings for stage in run.spec.stages if isinstance(stage.settings, CollectStage)}
        collecting = [
            pod
            for pod in await there.pods()
            if pod["metadata"]["labels"].get(LABEL_STAGE) in stages and pod["status"].get("phase") == "Running"
        ]
        if not collecting:
            raise InputError(f"run {there.name} collects nothing now; `kubectl get trainingruns` says where it is")
        [secret] = [each["secret"] for each in collecting[0]["spec"]["volumes"] if each["name"] == "token"]
        token = (await there.secret(secret["secretName"]))["data"]["token"]
        metadata = collecting[0]["metadata"]
        ingress = stages[metadata["labels"][LABEL_STAGE]].ingress
        return there.namespace, metadata["name"], base64.b64decode(token).decode(), ingress.url if ingress else ""
