"""What a rank knows of itself and its group, and how it talks to its agent.

The agent hands everything over in the environment, as torchrun does, so that a stage runs the same under a debugger:
set the variables, and without TRAINYARD_REPORT_FD reports go nowhere.
"""

import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from trainyard_api.model import Model, explain_errors
from trainyard_api.protocol import Job, Report
from trainyard_api.storage import Storage, open_storage

from . import stopping
from .errors import PermanentError
from .scratch import folder_of

M = TypeVar("M", bound=Model)

_report_lock = threading.Lock()


@dataclass(frozen=True)
class Group:
    """One rank's place in the group of one attempt, and the job that the group has."""

    job: Job
    attempt: int
    rank: int
    world_size: int
    local_rank: int
    output: Path
    """Where the stage works: its folder in storage, or one in scratch for what `write_artifact` puts to an object store."""
    inputs: dict[str, Path]
    """Field of the settings → folder of the artifact that it names, in storage or fetched from there."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Group":
        """The group that the agent has put this process in."""
        job = Job.model_validate_json(environment["TRAINYARD_JOB"])
        return cls(
            job=job,
            attempt=int(environment["TRAINYARD_ATTEMPT"]),
            rank=int(environment["RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment["LOCAL_RANK"]),
            output=folder_of(job.output_uri, f"outputs/{environment['TRAINYARD_ATTEMPT']}"),
            inputs={field: folder_of(uri, "inputs") for field, uri in job.inputs.items()},
        )

    @property
    def storage(self) -> Storage:
        """The stage's place in storage: what others see of it."""
        try:
            return open_storage(self.job.output_uri)
        except ValueError as error:
            raise PermanentError(f"spec.storage.uri: {error}") from None

    def settings(self, model: type[M]) -> M:
        """The stage's settings, typed."""
        try:
            return model.read_stored(self.job.settings)
        except ValidationError as error:
            mistakes = "; ".join(f"{self.job.stage}.{self.job.kind}.{line}" for line in explain_errors(error))
            raise PermanentError(mistakes) from None

    def report(self, **fields: Any) -> None:
        """Tell the agent what has changed: the fields of `protocol.Report`. A metric that isn't finite is left out."""
        if metrics := fields.get("metrics"):
            fields["metrics"] = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if descriptor := os.environ.get("TRAINYARD_REPORT_FD"):
            line = memoryview(Report(**fields).model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            with _report_lock:
                while line:
                    line = line[os.write(int(descriptor), line) :]

    def stopping(self) -> bool:
        """Whether SIGTERM has arrived in this process."""
        return stopping.requested()
