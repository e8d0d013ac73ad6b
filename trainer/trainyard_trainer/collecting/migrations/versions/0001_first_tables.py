"""Items, tasks, annotators, votes and the state of a collection."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "annotators",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), server_default="", nullable=False),
        sa.Column("first_seen", sa.Float(), nullable=True),
        sa.Column("revoked_before", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "items",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("skips", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("number"),
    )
    op.create_index(
        "retired_items",
        "items",
        ["id"],
        unique=False,
        sqlite_where=sa.text("skips >= 3"),
        postgresql_where=sa.text("skips >= 3"),
    )
    op.create_table(
        "state",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("repeats", sa.Float(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("closed_at", sa.Float(), nullable=True),
        sa.CheckConstraint("id = 1", name="one_row"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("repeats", sa.Integer(), nullable=True),
        sa.Column("annotator", sa.Text(), nullable=True),
        sa.Column("leased_until", sa.Float(), server_default="0", nullable=False),
        sa.Column("showing", sa.Integer(), server_default="0", nullable=False),
        sa.Column("shown", sa.JSON(), nullable=True),
        sa.Column("shown_at", sa.Float(), nullable=True),
        sa.Column("done", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint("(slot IS NULL) = (repeats IS NOT NULL)", name="slot_or_repeat"),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotators.name"],
        ),
        sa.ForeignKeyConstraint(
            ["item"],
            ["items.id"],
        ),
        sa.ForeignKeyConstraint(
            ["repeats"],
            ["tasks.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("item", "slot"),
        sa.UniqueConstraint("repeats"),
    )
    op.create_index(
        "done_slots",
        "tasks",
        ["done"],
        unique=False,
        sqlite_where=sa.text("done = 1 AND slot IS NOT NULL"),
        postgresql_where=sa.text("done AND slot IS NOT NULL"),
    )
    op.create_index(
        "one_of_an_item_each",
        "tasks",
        ["item", "annotator"],
        unique=True,
        sqlite_where=sa.text("slot IS NOT NULL"),
        postgresql_where=sa.text("slot IS NOT NULL"),
    )
    op.create_index(
        "open_tasks",
        "tasks",
        ["slot", "number"],
        unique=False,
        sqlite_where=sa.text("done = 0"),
        postgresql_where=sa.text("NOT done"),
    )
    op.create_index(
        "tasks_of",
        "tasks",
        ["annotator", "done"],
        unique=False,
    )
    op.create_table(
        "votes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task", sa.Integer(), nullable=False),
        sa.Column("showing", sa.Integer(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("annotator", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("ranks", sa.JSON(), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("guidelines", sa.Text(), server_default="", nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("undone", sa.Float(), nullable=True),
        sa.CheckConstraint("verdict IN ('prefer', 'tie', 'both_bad', 'skip')", name="known_verdict"),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotators.name"],
        ),
        sa.ForeignKeyConstraint(
            ["item"],
            ["items.id"],
        ),
        sa.ForeignKeyConstraint(
            ["task"],
            ["tasks.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("task", "showing"),
    )
    op.create_index(
        "one_vote_a_task",
        "votes",
        ["task"],
        unique=True,
        sqlite_where=sa.text("undone IS NULL AND verdict <> 'skip'"),
        postgresql_where=sa.text("undone IS NULL AND verdict <> 'skip'"),
    )
    op.create_index(
        "votes_of",
        "votes",
        ["annotator", "id"],
        unique=False,
    )
