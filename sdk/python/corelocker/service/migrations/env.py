"""What Alembic runs: `storage` has connected already, and begun the transaction that the upgrade is to be part of."""

from alembic import context

from corelocker.service.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can roll back CREATE TABLE when the transaction was begun by hand, as `storage` does.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
