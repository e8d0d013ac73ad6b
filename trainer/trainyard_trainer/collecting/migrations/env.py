"""What Alembic runs: the migrations, in the transaction of database.open_database."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
