"""Every name that more than one part must agree on: API group, labels, files, ports, and the names of a run's objects.

Pod names are DNS labels (they become host names), so 63 characters hold `<run>-<stage>-<rank>-<attempt>`: run and
stage share 50, rank and attempt have what is left. Admission refuses longer ones (rules of TrainingRun).
"""

GROUP = "trainyard.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "TrainingRun"
PLURAL = "trainingruns"

LABEL_RUN = f"{GROUP}/run"
LABEL_STAGE = f"{GROUP}/stage"
LABEL_RANK = f"{GROUP}/rank"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_TLS = f"{GROUP}/tls"
"""On pods, `true` where their agents serve HTTPS; the same on the Secret that they need for it."""
ANNOTATION_EXCLUDED = f"{GROUP}/excluded-nodes"
"""On a pod: the nodes that it was made to keep off, with commas."""
ANNOTATION_FORGIVEN = f"{GROUP}/forgiven-nodes"
"""On a run: JSON, node → when it was forgiven what the run had put down to it until then."""
MANAGED_BY = {"app.kubernetes.io/managed-by": "trainyard"}

AGENT_PORT = 9400
MASTER_PORT = 29500
TRAINER_CONTAINER = "trainer"
STORAGE_MOUNT = "/storage"
TOKEN_FILE = "/var/run/trainyard/token"  # noqa: S105 - where it lies, not what it says
TLS_FILE = "/var/run/trainyard/tls.pem"
"""Key and certificate of a run's agents, where they serve HTTPS."""
TERMINATION_LOG = "/dev/termination-log"

MAX_RUN_AND_STAGE = 50


def pod_name(run: str, stage: str, rank: int, attempt: int) -> str:
    """The pod that was made for `rank` of `stage` in `attempt`; making it twice is a conflict, not a second pod."""
    return f"{run}-{stage}-{rank}-{attempt}"


def secret_name(run: str, uid: str, *, tls: bool = False) -> str:
    """The Secret that holds the bearer token of a run's agents, under the key `token`; with TLS, `tls.pem` too.

    The start of the UID keeps a run apart from a deleted one of the same name.
    """
    return f"{run}-{uid[:8]}{'-tls' if tls else ''}"


def page_name(run: str, stage: str, uid: str) -> str:
    """The Service, and the Ingress, of the page that a stage serves. They begin with a letter, as names of Services must."""
    return f"page-{run}-{stage}-{uid[:6]}"


def artifact_uri(storage_uri: str, namespace: str, run: str, stage: str) -> str:
    """Where a stage of a run puts all that it makes: `<storage>/<namespace>/<run>/<stage>`."""
    return f"{storage_uri.rstrip('/')}/{namespace}/{run}/{stage}"


def stacks_path(attempt: int) -> str:
    """Below the place of a stage, where the stacks of an attempt that hung lie: `rank-0.txt`, …"""
    return f"stacks/attempt-{attempt}"
