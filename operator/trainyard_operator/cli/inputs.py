"""What the user wrote, read and checked before anything is started: all mistakes at once, each with field and remedy."""

from pathlib import Path

import yaml
from pydantic import ValidationError
from trainyard_api.model import explain_errors
from trainyard_api.run import TrainingRun

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
    remedy = "use --home to choose another folder" if by_claim else "name a folder that you own, or set claimName"
    wanted = {"--home": (home.root, "choose a folder that you own"), field: (home.storage(run.spec.wire()), remedy)}
    mistakes = []
    for name, (folder, what_to_do) in wanted.items():
        probe = folder / ".writable"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            mistakes.append(f"{name}: {folder} can't be written ({error.strerror}); {what_to_do}")
    if mistakes:
        raise InputError(*mistakes)
