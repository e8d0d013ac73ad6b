"""The folder of a stage's checkpoints: loaded only if whole, written by one attempt at a time.
What lies in the folder is written down in `trainyard_api.checkpoint`; how it gets there, in `saving`.

Loading agrees over all ranks on the newest step whose every byte is as written; ranks share the reading.
"""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from trainyard_api.checkpoint import (
    REASON,
    BadCheckpointError,
    Manifest,
    committed_steps,
    folder_name,
    quarantined_name,
    read_manifest,
    verify_shards,
)
from trainyard_api.status import Quarantined

from ..engine.processes import from_rank_0, gather
from ..errors import PermanentError
from ..group import Group
from .commit import FencedError, claim
from .failure import Failure, raise_any


class Checkpoints:
    """The checkpoints of one stage, as one attempt's ranks use them. Every method is called by all ranks together."""

    def __init__(self, group: Group) -> None:
        """Raise the fence: from here on no older attempt commits, and an attempt that is older itself ends here."""
        self.folder = group.output / "checkpoints"
        self.group = group
        self._on_rank_0(lambda: claim(self.folder, group.attempt))

    def newest(self, newer_than: int | None = None) -> tuple[Manifest, Path] | None:
        """The newest good checkpoint; None if there never was one, or none of a later step than `newer_than`.

        Bad ones on the way are quarantined.
        """
        steps = from_rank_0(committed_steps(self.folder) if self.group.rank == 0 else [])
        for step in reversed([each for each in steps if newer_than is None or each > newer_than]):
            folder = self.folder / folder_name(step)
            manifest, mistake = self._verify_my_share(folder)
            mistakes = [each for each in gather(mistake) if each]
            if manifest and not mistakes:
                return manifest, folder
            self._on_rank_0(partial(self._quarantine, step, mistakes[0]))
        if newer_than is not None:
            return None
        if quarantined := from_rank_0(sorted(each.name for each in self.folder.glob("step-*.bad"))):
            raise PermanentError(
                f"{self.folder}: every checkpoint is bad ({', '.join(quarantined)}; see reason.txt in each); restore one, "
                "or delete this folder to train from the start"
            )
        return None

    def _verify_my_share(self, folder: Path) -> tuple[Manifest | None, str]:
        try:
            manifest = read_manifest(folder)
            verify_shards(folder, manifest.shards[self.group.rank :: self.group.world_size])
        except BadCheckpointError as error:
            return None, str(error)
        return manifest, ""

    def _quarantine(self, step: int, reason: str) -> None:
        """Put a bad checkpoint aside, for whoever wants to know what happened to it, and say so."""
        folder, aside = self.folder / folder_name(step), self.folder / quarantined_name(step)
        if aside.exists():
            shutil.rmtree(aside)
        (folder / REASON).write_text(f"{reason}\n")
        folder.rename(aside)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.group.report(quarantined=Quarantined(step=step, reason=reason, time=now))

    def _on_rank_0(self, act: Callable[[], object]) -> None:
        """Let rank 0 act on the folder; what fails there, fails on every rank, so that none waits for the others."""
        failure = None
        if self.group.rank == 0:
            try:
                act()
            except (OSError, FencedError) as error:
                failure = Failure.of(error)
        raise_any([from_rank_0(failure)])
