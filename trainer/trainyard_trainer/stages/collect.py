"""Have people compare responses: draw them, serve the annotators' page until enough is judged, and write what comes of it.

    items.jsonl            what is compared
    votes.sqlite           the votes, unless TRAINYARD_VOTES_DATABASE names a PostgreSQL
    artifact's files       collecting/export.py

One process, which may wait for days: it tells its agent that it lives, holds nothing that isn't on disk, and goes on where it
was when it is started again. Responses follow from the seed: those that an attempt had no time to write are drawn again alike.
"""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from trainyard_api.collect_settings import COLLECT_PORT, CollectStage
from trainyard_api.links import links_key
from trainyard_api.protocol import Artifact
from trainyard_api.status import Progress

from .. import stopping
from ..artifacts import write_artifact
from ..collecting.database import Database, Tally, open_database
from ..collecting.drawing import draw_items
from ..collecting.export import export
from ..collecting.importing import import_comparisons
from ..collecting.items import read_items, write_items
from ..collecting.server import serve
from ..collecting.settings import ServerSettings
from ..data.fetched import fetch_file
from ..errors import PermanentError, StopRequested
from ..group import Group
from ..pulse import Pulse
from ..scratch import is_folder

DATABASE = "TRAINYARD_VOTES_DATABASE"


def collect(group: Group) -> Artifact | None:
    """The artifact, once all wanted judgements are made."""
    stage = group.settings(CollectStage)
    database = _open(group)
    pulse = Pulse(group)
    try:
        left_out = _load(stage, group, database, pulse)
        tally = database.progress()
        if not tally.met:
            tally = _serve(stage, group, database, pulse)
        if not tally.met:
            raise StopRequested("votes are on disk")
        database.close_voting()
        return _finish(group, database, left_out)
    finally:
        database.close()


def _open(group: Group) -> Database:
    """SQLite beside the stage's files, or what the environment names."""
    if url := os.environ.get(DATABASE):
        return open_database(url)
    if not is_folder(group.job.output_uri):
        raise PermanentError(
            f"collect: votes can't lie in {group.job.output_uri}; give the stage a PostgreSQL: its URL in {DATABASE}, by "
            "template.spec.containers[0].env from a Secret"
        )
    return open_database(str(group.output / "votes.sqlite"))


def _load(stage: CollectStage, group: Group, database: Database, pulse: Pulse) -> dict[str, int]:
    """Have all items in the database; those that were left out, by reason."""
    if stage.comparisons:
        field = "collect.comparisons"
        file = fetch_file(stage.comparisons, group.job.storage_uri, field, lambda _: pulse.beat("fetching"))
        try:
            taken = import_comparisons(database, file)
        except (OSError, UnicodeDecodeError) as error:
            raise PermanentError(f"{field}: {file}: {error}; put JSONL there, or correct the path") from None
        if not taken.rows:
            raise PermanentError(f"{field}: {file}: no row that can be used: {taken.left_out or 'it is empty'}")
        return taken.left_out
    written = group.output / "items.jsonl"
    if not written.exists():
        items = list(draw_items(stage, group, lambda done, of: _tell(group, pulse, done, of, "drawing responses")))
        write_items(written.with_suffix(".part"), items)
        written.with_suffix(".part").rename(written)
    loaded = database.load(read_items(written), stage.overlap, stage.repeats)
    if not loaded.items:
        raise PermanentError(
            f"collect.draw: nothing can be compared: {loaded.left_out}; use other prompts, or warmer draws"
        )
    return loaded.left_out


def _serve(stage: CollectStage, group: Group, database: Database, pulse: Pulse) -> Tally:
    settings = ServerSettings(
        title=stage.title,
        question=stage.question,
        guidelines=stage.guidelines,
        votes_per_minute=stage.votes_per_minute,
        oidc_header=stage.oidc_header,
        https=stage.https,
    )
    master = os.environ["MASTER_ADDR"]
    host = master if master.startswith("127.") else "0.0.0.0"  # noqa: S104 - a pod has one address, its own
    told: list[Tally] = []

    def tell(tally: Tally) -> None:
        pulse.beat("working", tally.done)
        if told[-1:] != [tally]:
            told[:] = [tally]
            _tell(group, pulse, tally.done, tally.wanted, f"http://{master}:{COLLECT_PORT}")

    key = links_key(Path(os.environ["TRAINYARD_TOKEN_FILE"]).read_text().strip())
    stopping.hold_back()  # so that the page says good-bye, and requests that have come are answered
    tally = serve(database, settings, key, COLLECT_PORT, host=host, stopping=group.stopping, tell=tell)
    if tally.met:
        stopping.let_go()
    return tally


def _tell(group: Group, pulse: Pulse, done: int, of: int, message: str) -> None:
    pulse.beat("working", done)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    group.report(progress=Progress(step=done, steps=of, message=message, heartbeat_time=now))


def _finish(group: Group, database: Database, left_out: dict[str, int]) -> Artifact:
    folder = group.output / "collected"
    shutil.rmtree(folder, ignore_errors=True)
    exported = export(database, folder)
    tally = database.progress()
    metrics = {"judgements": float(tally.done), "preferences": float(exported.rows)}
    metrics |= {
        f"left_out_{reason.replace(' ', '_')}": float(count) for reason, count in (left_out | exported.left_out).items()
    }
    return write_artifact(
        group, metrics=metrics, files=["collected"], details={"preferences": "collected/conversational.jsonl"}
    )
