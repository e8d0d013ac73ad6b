"""What the user wrote, read and checked before anything is started: all mistakes at once, each with field and remedy."""

from pathlib import Path

import yaml
from pydantic import ValidationError
from trainyard_api.model import explain_errors
from trainyard_api.probe import probe, remedy
from trainyard_api.run import TrainingRun
from trainyard_api.storage import open_storage

from ..cluster.home import Home
from ..decide.template import template_mistakes


class InputError(Exception):
    """The user must change something first; `mistakes` says what, one line each."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


def read_run_file(path: Path, namespace: str | None) -> TrainingRun:
    """The run that a YAML file holds. `namespace` is used where the file names none, and must not contradict it."""
    try:
        documents = [each for each in yaml.safe_load_all(path.read_bytes()) if each is not None]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the path of a YAML file with a TrainingRun") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InputError(f"{path}:{line}: not YAML: {error.problem}; correct this line or the one before") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {error}; save it as UTF-8 text") from None
    if len(documents) != 1:
        raise InputError(f"{path}: holds {len(documents)} documents; give a file with one TrainingRun")
    written = documents[0]
    if not isinstance(written, dict):
        raise InputError(f"{path}: holds no object; it must begin with apiVersion, kind, metadata and spec")
    metadata = written.get("metadata")
    if isinstance(metadata, dict) and namespace is not None:
        named = metadata.setdefault("namespace", namespace)
        if named != namespace:
            raise InputError(f"metadata.namespace: {named}, but --namespace says {namespace}; leave one of them out")
    try:
        run = TrainingRun.read({name: value for name, value in written.items() if name != "status"})
    except ValidationError as error:
        raise InputError(*explain_errors(error)) from None
    if mistakes := template_mistakes(run.spec):
        raise InputError(*mistakes)
    return run


def check_storage(home: Home, run: TrainingRun) -> None:
    """Raise InputError unless the home and the run's storage can be written."""
    by_claim = run.spec.storage.claim_name is not None
    field = "spec.storage.claimName" if by_claim else "spec.storage.uri"
    folder = "use --home to choose another folder" if by_claim else "name a folder that you own, or set claimName"
    home_uri, storage_uri = f"file://{home.root}", home.storage_uri(run.spec.wire())
    mistakes = []
    for name, uri, instead in (("--home", home_uri, "choose a folder that you own"), (field, storage_uri, folder)):
        try:
            probe(open_storage(uri))
        except ValueError as error:
            mistakes.append(f"{name}: {error}")
        except OSError as error:
            what = instead if uri.startswith("file://") else remedy(error)
            mistakes.append(f"{name}: {uri.removeprefix('file://')} can't be written ({error.strerror}); {what}")
    if mistakes:
        raise InputError(*mistakes)
