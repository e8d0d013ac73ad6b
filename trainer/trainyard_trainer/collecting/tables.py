"""The tables of a collection. migrations/versions make them; a test holds the two against each other.

items       what is compared; responses lie in it as JSON, for nothing asks for them alone
tasks       a wanted judgement each: `overlap` a item, made when items are loaded, and blind repeats, made as they come.
            Whoever is shown a task holds it (annotator, leased_until); unique indexes, not code, see to it that nobody
            has two of one item and that no item has more than its overlap
votes       the raw log: a row is added, never changed but for `undone`. One a showing of a task, so what is sent twice
            counts once; one that counts a task. Both by unique indexes
annotators  who has ever come, and the moment before which all their links are void
state       one row: how often each item is wanted, the share of repeats, all tasks that are no repeats, when voting was closed
"""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    literal_column,
    text,
)

METADATA = MetaData()

items = Table(
    "items",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("content", JSON, nullable=False),
    Column("skips", Integer, nullable=False, server_default="0"),
)
RETIRING_SKIPS = 3
"""An item skipped so often is asked of nobody else, and wanted no more: nothing waits for ever for what nobody can judge."""
retired = items.c.skips >= literal_column(str(RETIRING_SKIPS))
Index("retired_items", items.c.id, sqlite_where=retired, postgresql_where=retired)

annotators = Table(
    "annotators",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("rule", Text, nullable=False, server_default=""),
    Column("first_seen", Float),
    Column("revoked_before", Float, nullable=False, server_default="0"),
)

tasks = Table(
    "tasks",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("item", Text, ForeignKey("items.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("slot", Integer),
    Column("repeats", Integer, ForeignKey("tasks.id")),
    Column("annotator", Text, ForeignKey("annotators.name")),
    Column("leased_until", Float, nullable=False, server_default="0"),
    Column("showing", Integer, nullable=False, server_default="0"),
    Column("shown", JSON),
    Column("shown_at", Float),
    Column("done", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("item", "slot"),
    UniqueConstraint("repeats"),
    CheckConstraint("(slot IS NULL) = (repeats IS NOT NULL)", name="slot_or_repeat"),
)
# SQLite uses a partial index only where a query says its condition as it stands, and knows booleans as numbers.
_OF_A_SLOT = text("slot IS NOT NULL")
Index(
    "one_of_an_item_each",
    tasks.c.item,
    tasks.c.annotator,
    unique=True,
    sqlite_where=_OF_A_SLOT,
    postgresql_where=_OF_A_SLOT,
)
Index("open_tasks", tasks.c.slot, tasks.c.number, sqlite_where=text("done = 0"), postgresql_where=text("NOT done"))
Index(
    "done_slots",
    tasks.c.done,
    sqlite_where=text("done = 1 AND slot IS NOT NULL"),
    postgresql_where=text("done AND slot IS NOT NULL"),
)
Index("tasks_of", tasks.c.annotator, tasks.c.done)

votes = Table(
    "votes",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("task", Integer, ForeignKey("tasks.id"), nullable=False),
    Column("showing", Integer, nullable=False),
    Column("item", Text, ForeignKey("items.id"), nullable=False),
    Column("annotator", Text, ForeignKey("annotators.name"), nullable=False),
    Column("verdict", Text, nullable=False),
    Column("ranks", JSON, nullable=False),
    Column("shown", JSON, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    Column("seconds", Float, nullable=False),
    Column("guidelines", Text, nullable=False, server_default=""),
    Column("at", Float, nullable=False),
    Column("undone", Float),
    UniqueConstraint("task", "showing"),
    CheckConstraint("verdict IN ('prefer', 'tie', 'both_bad', 'skip')", name="known_verdict"),
)
_COUNTS = text("undone IS NULL AND verdict <> 'skip'")
Index("one_vote_a_task", votes.c.task, unique=True, sqlite_where=_COUNTS, postgresql_where=_COUNTS)
Index("votes_of", votes.c.annotator, votes.c.id)

state = Table(
    "state",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("overlap", Integer, nullable=False),
    Column("repeats", Float, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("closed_at", Float),
    CheckConstraint("id = 1", name="one_row"),
)
