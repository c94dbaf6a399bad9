"""What Alembic runs: `store.migrate` hands it a connection that is inside a transaction."""

from alembic import context

from lapse.store.layout import VERSION_TABLE
from lapse.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
