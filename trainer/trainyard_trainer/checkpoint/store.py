"""The checkpoints of a stage: loaded only if whole, and written by one attempt at a time.
What lies there is written down in `trainyard_api.checkpoint`; how it gets there, in `saving`.

Loading agrees over all ranks on the newest checkpoint whose every byte is as written. Ranks share the checking, and each
keeps in memory what it has checked: no byte is read twice for that.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from trainyard_api.checkpoint import (
    BAD,
    Bad,
    BadCheckpointError,
    Manifest,
    Name,
    RolledBack,
    look,
    read_manifest,
    read_shard,
    void,
)
from trainyard_api.status import Quarantined

from ..engine.processes import from_rank_0, gather
from ..errors import PermanentError
from ..group import Group
from .commit import FencedError, begin, claim, roll_back, to_step
from .failure import Failure, raise_any
from .tensors import Shards, Source, Stored

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one stage, as one attempt's ranks use them. Every method is called by all ranks together."""

    def __init__(self, group: Group) -> None:
        """Ends this attempt here if a newer one has begun."""
        self.group = group
        self.storage = group.storage.at("checkpoints")
        self._record = self._on_rank_0(lambda: claim(self.storage, group.attempt, group.job.run_uid))
        self.to_step = self._on_rank_0(lambda: to_step(self.storage, self._record))
        """The newest step to begin with; None if any will do."""

    @property
    def attempt(self) -> int:
        """The number of this attempt in names of checkpoints."""
        return self._record.attempt

    def name(self, step: int, attempt: int) -> Name:
        """Of a checkpoint of this run, by the attempt as the operator counts."""
        return Name(step, self._record.after + attempt)

    def too_new(self, step: int) -> bool:
        """Whether the roll-back that the last attempt ended in goes back further."""
        return self.to_step is not None and step > self.to_step

    @property
    def rolled_back(self) -> RolledBack | None:
        """The last roll-back there was."""
        return self._record.rolled_back

    def newest(self, newer_than: int | None = None) -> tuple[Manifest, Shards] | None:
        """The newest good checkpoint; None if there never was one, or none of a later step than `newer_than`.

        After a roll-back the newest that is old enough; if none is, and `newer_than` not given, the oldest.
        Bad ones on the way are quarantined.
        """
        found = self._on_rank_0(lambda: look(self.storage))
        names = [each.name for each in found if each.state == "committed"]
        too_new = [name for name in names if self.too_new(name.step)]
        old_enough = names[: len(names) - len(too_new)]
        for name in (*reversed(old_enough), *(too_new if newer_than is None else ())):
            if newer_than is not None and name.step <= newer_than:
                return None
            manifest, mistake = self._on_rank_0(partial(self._manifest, name))
            sources: list[Source] = []
            if manifest:
                sources, mistake = self._check_my_share(name, manifest)
            if manifest and not mistake:
                return manifest, Shards(sources)
            self._on_rank_0(partial(self._quarantine, name, mistake))
        bad = [str(each.name) for each in found if each.state == "bad"] + [str(name) for name in names]
        if bad and newer_than is None:
            raise PermanentError(
                f"{self.storage.uri}: every checkpoint is bad ({', '.join(sorted(bad))}; see {BAD} in each); copy a good one "
                "there by `trainyard checkpoints copy`, or delete them all to train from the start"
            )
        return None

    def begin(self, step: int) -> None:
        """Put on record that this attempt goes on from `step` (0: anew). Older ones commit nothing that counts any more."""
        self._record = self._record.model_copy(update={"resumed_step": step})
        self._on_rank_0(lambda: begin(self.storage, self._record))

    def roll_back(self, to_step: int, batch: int, skipped: int, faults: list[int]) -> None:
        """Put on record that this attempt ends here, and where the next one begins: with a checkpoint of `to_step` or older,
        and with the global batch after `batch`.
        """
        to = RolledBack(attempt=self.attempt, to_step=to_step, batch=batch, skipped=skipped, faults=faults)
        self._on_rank_0(lambda: roll_back(self.storage, self._record, to))

    def void(self, names: list[Name]) -> list[Name]:
        """Those of these that don't count: a newer attempt has begun from an earlier step. `names` are rank 0's."""
        return self._on_rank_0(lambda: void(self.storage, names))

    def _manifest(self, name: Name) -> tuple[Manifest | None, str]:
        try:
            return read_manifest(self.storage.at(str(name))), ""
        except BadCheckpointError as error:
            return None, str(error)

    def _check_my_share(self, name: Name, manifest: Manifest) -> tuple[list[Source], str]:
        """Where this rank has the shards, its share of them in memory; and what is wrong with one, whoever has found it."""
        folder = self.storage.at(str(name))
        sources: list[Source] = [Stored(folder, shard.file, shard.bytes) for shard in manifest.shards]
        mistake, failure = "", None
        try:
            for number in range(self.group.rank, len(sources), self.group.world_size):
                sources[number] = read_shard(folder, manifest.shards[number])
        except BadCheckpointError as error:
            mistake = str(error)
        except OSError as error:
            failure = Failure.of(error)
        outcomes = gather((mistake, failure))
        raise_any([failure for _, failure in outcomes])
        return sources, next((mistake for mistake, _ in outcomes if mistake), "")

    def _quarantine(self, name: Name, reason: str) -> None:
        """Put a bad checkpoint aside, for whoever wants to know what happened to it, and say so."""
        bad = Bad(reason=reason, time=datetime.now(UTC).isoformat(timespec="milliseconds"))
        self.storage.write(f"{name}/{BAD}", bad.model_dump_json(by_alias=True).encode())
        self.group.report(quarantined=Quarantined(step=name.step, reason=reason, time=bad.time))

    def _on_rank_0(self, act: Callable[[], T]) -> T:
        """What rank 0 gets from storage; what fails there, fails on every rank, so that none waits for the others."""
        result: T | None = None
        failure = None
        if self.group.rank == 0:
            try:
                result = act()
            except (OSError, FencedError) as error:
                failure = Failure.of(error)
        result, failure = from_rank_0((result, failure))
        raise_any([failure])
        return result  # type: ignore[return-value]
