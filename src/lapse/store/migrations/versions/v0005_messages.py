"""What messages leave behind: who opened, who answered, receipts; and a primary key that serves look-ups by id alone.

PostgreSQL: all that takes long is prepared beside messages (`prepare`); the rest needs the table for a moment. Tables
that Citus distributes and partitioned ones have no index CONCURRENTLY that becomes a key: there messages wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import context, op

from lapse.errors import ForeignTableError, SchemaError
from lapse.store.migrations import first_answers, sqlite_rebuild
from lapse.store.page_batches import in_page_batches
from lapse.store.table_access import close_statement, share_statement
from lapse.store.table_locks import oid_of, taking
from lapse.store.types import UtcDateTime

if TYPE_CHECKING:
    from lapse.store.online_steps import OnlineSteps

revision = "0005"
down_revision = "0004"

RECEIPTS = "message_receipts"
KEY, NEW_KEY = "pk_conversations", "pk_conversations_0005"
KEY_COLUMNS = ["conv_id", "owner_id"]
PASSES = 3
"""Over rows that others had locked; what is locked in all of them stays unknown."""
_COLUMNS = {
    "policy_id": "bigint",
    "opened_by": "text",
    "last_outbound_at": "timestamptz",
    "first_answered_at": "timestamptz",
    "hold_until": "timestamptz",
    "reminders_sent": "bigint NOT NULL DEFAULT 0",
    "reminded_at": "timestamptz",
}
# Constant for the rows that are there: none is rewritten.
_ADD_COLUMNS = "ALTER TABLE conversations " + ", ".join(
    f"ADD COLUMN IF NOT EXISTS {name} {declaration}" for name, declaration in _COLUMNS.items()
)
_HAS_COLUMNS = f"""
    SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('conversations') AND NOT attisdropped
        AND attname IN ({", ".join(repr(name) for name in _COLUMNS)})"""  # noqa: S608 - of names
_IS_PLAIN = (
    "SELECT c.relkind = 'r' AND to_regclass('pg_dist_partition') IS NULL FROM pg_class c "
    "WHERE c.oid = to_regclass('conversations')"
)
_HAS_CITUS = "SELECT to_regclass('pg_dist_partition') IS NOT NULL"
_IS_DISTRIBUTED = (
    "SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass('conversations') "
    "AND partmethod = 'h')"
)
_DISTRIBUTE = f"SELECT create_distributed_table('{RECEIPTS}', 'owner_id', colocate_with => 'conversations')"
_IS_ADOPTED = f"SELECT {oid_of('lapse_adoption')} IS NOT NULL"
_PRIMARY_KEY = """
    SELECT k.conname::text, k.conindid::bigint, array_agg(a.attname::text ORDER BY u.place) AS columns
    FROM pg_constraint k, unnest(k.conkey) WITH ORDINALITY AS u (attnum, place), pg_attribute a
    WHERE k.conrelid = to_regclass('conversations') AND k.contype = 'p'
        AND a.attrelid = k.conrelid AND a.attnum = u.attnum
    GROUP BY k.conname, k.conindid"""
_NEW_INDEX = f"""
    SELECT i.indisvalid AND i.indisready FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = to_regclass('conversations') AND c.relname = '{NEW_KEY}'"""  # noqa: S608 - as well
_REFERRING = """
    SELECT conname::text, conrelid::regclass::text FROM pg_constraint
    WHERE contype = 'f' AND confrelid = to_regclass('conversations') AND conindid = {index} AND conparentid = 0"""
_PAGES = """
    SELECT greatest(pg_relation_size(to_regclass('conversations')), max(pg_relation_size(relid)))
        / current_setting('block_size')::bigint
    FROM pg_partition_tree('conversations')"""


# --- PostgreSQL, beside messages ----------------------------------------------------------------------------------


def prepare(steps: OnlineSteps) -> None:
    """Do what takes long; the schema still serves the lapse of its old version.

    Raises:
        ForeignTableError: there is a table `message_receipts` that lapse did not make.
        SchemaError: a foreign key refers to the primary key, which changes.
        DatabaseUnavailableError: somebody held a lock on the table all the time.
        psycopg.Error: the database refused, or the connection is lost.
    """
    if steps.value(_IS_ADOPTED):
        from lapse.adoption.upgrade import upgrade_adopted

        upgrade_adopted(steps)
        return
    _refuse_receipts(is_there=steps.value(f"SELECT {oid_of(RECEIPTS)} IS NOT NULL"))
    _refuse_references(steps.rows(_PRIMARY_KEY), steps.rows)
    if steps.value(_HAS_COLUMNS) < len(_COLUMNS):
        with steps.progress.step("add the new columns"):
            steps.run_locked("conversations", [_ADD_COLUMNS])
    if steps.value(_IS_PLAIN):
        _build_key(steps)
    with steps.progress.step("find out who opened and who answered open conversations"):
        _fill(steps)


def _build_key(steps: OnlineSteps) -> None:
    if any(columns == KEY_COLUMNS for _, _, columns in steps.rows(_PRIMARY_KEY)):
        return
    with steps.progress.step("build the index of the new primary key"):
        steps.wait_for_builders("conversations")
        found = steps.rows(_NEW_INDEX)
        if found == [(True,)]:
            return
        if found:  # an interrupted run left it behind
            steps.run_long(f"DROP INDEX CONCURRENTLY {NEW_KEY}")
        columns = ", ".join(KEY_COLUMNS)
        steps.run_long(f"CREATE UNIQUE INDEX CONCURRENTLY {NEW_KEY} ON conversations ({columns})")


def _fill(steps: OnlineSteps) -> None:
    if steps.value(_HAS_CITUS):  # its rows have no pages here
        steps.driver.execute(first_answers.FILL_ALL.encode())
        return

    def work(first: int, end: int) -> None:
        steps.driver.execute(first_answers.batch_statement(first, end).encode())

    for _ in range(PASSES):
        in_page_batches(steps.value(_PAGES), work, on_batch=steps.progress.advance)
        if not steps.value(first_answers.IS_ANY_LEFT):
            return


def _refuse_receipts(*, is_there: bool) -> None:
    if is_there:
        raise ForeignTableError(
            f"the database has a table {RECEIPTS!r} that lapse did not make; it was left as it is: rename it"
        )


def _refuse_references(keys: Any, rows: Any) -> None:
    for _, index, columns in keys:
        if columns == KEY_COLUMNS:
            continue
        for name, table in rows(_REFERRING.format(index=int(index))):
            raise SchemaError(
                f"the constraint {name} of {table} refers to the primary key of conversations, which changes to "
                f"({', '.join(KEY_COLUMNS)}); nothing was changed: drop it, run this again, then add it as it was"
            )


# --- in one transaction -------------------------------------------------------------------------------------------


def upgrade() -> None:
    """Add the columns where they are not prepared, change the key, create the receipts."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        _refuse_receipts(is_there=sa.inspect(connection).has_table(RECEIPTS))
        sqlite_rebuild.rebuild_conversations(connection)
        _create_receipts(connection)
        connection.exec_driver_sql(first_answers.FILL_ALL)
    elif not connection.exec_driver_sql(_IS_ADOPTED).scalar_one():
        _upgrade_postgresql(connection)


def _upgrade_postgresql(connection: sa.Connection) -> None:
    lock_timeout = connection.exec_driver_sql("SHOW lock_timeout").scalar_one()
    is_new = context.config.attributes.get("is_new", False)
    for statement in taking("conversations"):
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql(_ADD_COLUMNS)
    _change_key(connection)
    connection.exec_driver_sql("DROP INDEX IF EXISTS ix_conversations_conv_id")
    _create_receipts(connection)
    _distribute_receipts(connection)
    for statement in (
        share_statement("conversation_events", RECEIPTS),
        close_statement([RECEIPTS], keep_logins=not is_new),
    ):
        # Not taken for a template with parameters: per cent signs are plpgsql's.
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{lock_timeout}'")


def _change_key(connection: sa.Connection) -> None:
    keys = connection.exec_driver_sql(_PRIMARY_KEY).all()
    _refuse_references(keys, lambda query: connection.exec_driver_sql(query).all())
    if any(columns == KEY_COLUMNS for _, _, columns in keys):
        return
    is_prepared = connection.exec_driver_sql(_NEW_INDEX).scalar_one_or_none()
    new = f"USING INDEX {NEW_KEY}" if is_prepared else f"({', '.join(KEY_COLUMNS)})"
    quote = connection.dialect.identifier_preparer.quote
    # One by one: Citus takes no constraint together with other changes.
    for name, _, _ in keys:
        connection.exec_driver_sql(f"ALTER TABLE conversations DROP CONSTRAINT {quote(name)}")
    connection.exec_driver_sql(f"ALTER TABLE conversations ADD CONSTRAINT {KEY} PRIMARY KEY {new}")
    if is_prepared is False:  # made by a run that was killed, of another way than this one
        connection.exec_driver_sql(f"DROP INDEX {NEW_KEY}")


def _create_receipts(connection: sa.Connection) -> None:
    types = _types(connection)
    op.create_table(
        RECEIPTS,
        sa.Column("owner_id", types["owner_id"], nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("conv_id", types["conv_id"]),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "channel", "message_id", name=f"pk_{RECEIPTS}"),
    )


def _types(connection: sa.Connection) -> dict[str, sa.types.TypeEngine[Any]]:
    """Return the types of the columns of conversations; SQLAlchemy knows none whose name the server quotes."""
    quotes = None
    if connection.dialect.name == "postgresql":
        quotes = connection.exec_driver_sql("SHOW quote_all_identifiers").scalar_one()
        connection.exec_driver_sql("SET LOCAL quote_all_identifiers = off")
    types = {column["name"]: column["type"] for column in sa.inspect(connection).get_columns("conversations")}
    if quotes is not None:
        connection.exec_driver_sql(f"SET LOCAL quote_all_identifiers = {quotes}")
    return types


def _distribute_receipts(connection: sa.Connection) -> None:
    if connection.exec_driver_sql(_HAS_CITUS).scalar_one() and connection.exec_driver_sql(_IS_DISTRIBUTED).scalar_one():
        connection.exec_driver_sql(_DISTRIBUTE)
