"""PostgreSQL: lapse's tables are open to nobody but their owner and the roles that somebody named."""

from alembic import context, op

from lapse.store.table_access import close_statement, shut_out_query, unguarded_query
from lapse.store.table_locks import oid_of, taking

revision = "0004"
down_revision = "0003"

OWN = ("conversations", "conversation_events", "lapse_schema_version")
BESIDE_ADOPTED = ("conversation_events", "lapse_schema_version", "lapse_adoption")
"""An adopted table conversations is the application's, and so is who may use it."""


def upgrade() -> None:
    """Switch row level security on, with policies for who has a GRANT, and take away what default privileges gave."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    attributes = context.config.attributes
    is_adopted = connection.exec_driver_sql(f"SELECT {oid_of('lapse_adoption')} IS NOT NULL").scalar_one()
    tables = BESIDE_ADOPTED if is_adopted else OWN
    # What is made anew nobody works with yet.
    keep_logins = not attributes.get("is_new", False)
    lock_timeout = connection.exec_driver_sql("SHOW lock_timeout").scalar_one()
    if connection.exec_driver_sql(unguarded_query(tables)).first():
        # In the order in which a worker's transaction uses them.
        for statement in taking(*tables):
            connection.exec_driver_sql(statement)
    shut_out = shut_out_query(tables, keep_logins=keep_logins)
    attributes["shut_out"] = list(
        connection.exec_driver_sql(shut_out, execution_options={"no_parameters": True}).scalars()
    )
    # Not taken for a template with parameters: per cent signs are plpgsql's.
    connection.exec_driver_sql(
        close_statement(tables, keep_logins=keep_logins), execution_options={"no_parameters": True}
    )
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{lock_timeout}'")
