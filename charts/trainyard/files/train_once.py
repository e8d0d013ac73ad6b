"""What `helm test` runs: submits a small TrainingRun through the API server, waits for its end, and says how it went.

Standard library alone, with the pod's own service account. A run that succeeded is deleted; a failed one stays, to be
looked at, until the next test.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEADLINE_SECONDS = 900
RUN = json.loads(os.environ["RUN"])
NAMESPACE, NAME = RUN["metadata"]["namespace"], RUN["metadata"]["name"]
COLLECTION = f"/apis/trainyard.dev/v1alpha1/namespaces/{NAMESPACE}/trainingruns"


def ask(method: str, path: str, body: object = None) -> dict:
    """The API server's answer; an empty object where there is no such thing."""
    host = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(host + path, method=method, data=data)  # noqa: S310
    request.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text()}")
    request.add_header("Content-Type", "application/json")
    try:
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return {}
        sys.exit(f"{method} {path}: {error.code} {error.read().decode()}")


def main() -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    ask("DELETE", f"{COLLECTION}/{NAME}")
    while ask("GET", f"{COLLECTION}/{NAME}"):
        time.sleep(1)
    ask("POST", COLLECTION, RUN)
    said = ""
    while time.monotonic() < deadline:
        status = ask("GET", f"{COLLECTION}/{NAME}").get("status", {})
        phase, reason, stage = (status.get(field, "") for field in ("phase", "reason", "stage"))
        if (line := f"{stage} {phase} {reason} {status.get('message', '')}".strip()) != said:
            said = line
            print(line, flush=True)
        if phase == "Succeeded":
            ask("DELETE", f"{COLLECTION}/{NAME}")
            return
        if phase == "Failed":
            sys.exit(f"the run failed; see: kubectl -n {NAMESPACE} get trainingrun {NAME} -o yaml")
        time.sleep(1)
    sys.exit(f"no end after {DEADLINE_SECONDS} s; see: kubectl -n {NAMESPACE} get trainingrun {NAME} -o yaml")


main()
