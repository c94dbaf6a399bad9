"""What Alembic runs: `store.migrate` hands it a connection that is inside a transaction."""

from alembic import context

from lapse.store.table_mapping import VERSION_TABLE
from lapse.store.tables import OWN_TABLES

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=OWN_TABLES.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
