"""SQLite: the table `conversations` made anew with another primary key, which SQLite cannot change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from lapse.store.types import JsonObject, UtcDateTime

NEW = "lapse_new_conversations"
ANY_STATUS = (
    "status IN ('pending', 'progress', 'idle_timeout', 'agent_closed', 'support_closed', 'user_closed', "
    "'expired', 'failed')"
)
_DROPPED_INDEX = "ix_conversations_conv_id"
_COLUMNS = """SELECT name, type, "notnull", dflt_value FROM pragma_table_info('conversations')"""
_BESIDE = "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'conversations' AND type <> 'table' AND sql IS NOT NULL"


def rebuild_conversations(connection: sa.Connection) -> None:
    """Copy the rows to a table of the new form; columns of others, indexes and triggers stay as they were."""
    columns = {column["name"]: column["type"] for column in sa.inspect(connection).get_columns("conversations")}
    beside = connection.exec_driver_sql(_BESIDE).all()
    _create(columns["owner_id"], columns["conv_id"])
    known = [column["name"] for column in sa.inspect(connection).get_columns(NEW)]
    quote = connection.dialect.identifier_preparer.quote_identifier
    for name, declared, is_required, default in connection.exec_driver_sql(_COLUMNS).all():
        if name not in known:
            options = " NOT NULL" if is_required else ""
            options += f" DEFAULT {default}" if default is not None else ""
            connection.exec_driver_sql(f"ALTER TABLE {NEW} ADD COLUMN {quote(name)} {declared}{options}")
    listed = ", ".join(map(quote, columns))
    connection.exec_driver_sql(f"INSERT INTO {NEW} ({listed}) SELECT {listed} FROM conversations")  # noqa: S608 - names
    connection.exec_driver_sql("DROP TABLE conversations")
    # Views and triggers of the file's owner go on to mean the table of this name: not to be checked while it is away.
    connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    connection.exec_driver_sql(f"ALTER TABLE {NEW} RENAME TO conversations")
    connection.exec_driver_sql("PRAGMA legacy_alter_table = OFF")
    for name, statement in beside:
        if name != _DROPPED_INDEX:
            connection.exec_driver_sql(statement)


def _create(owner_id: sa.types.TypeEngine[object], conv_id: sa.types.TypeEngine[object]) -> None:
    op.create_table(
        NEW,
        sa.Column("owner_id", owner_id, nullable=False),
        sa.Column("conv_id", conv_id, nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("session_key", sa.Text(), nullable=False),
        sa.Column("from_number", sa.Text(), nullable=False),
        sa.Column("to_number", sa.Text(), nullable=False),
        sa.Column("user_id", sa.BigInteger()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("policy_id", sa.BigInteger()),
        sa.Column("opened_by", sa.Text()),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("last_inbound_at", UtcDateTime()),
        sa.Column("last_outbound_at", UtcDateTime()),
        sa.Column("first_answered_at", UtcDateTime()),
        sa.Column("ended_at", UtcDateTime()),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("idle_check_at", UtcDateTime(), nullable=False),
        sa.Column("idle_timeout_seconds", sa.BigInteger(), nullable=False),
        sa.Column("hold_until", UtcDateTime()),
        sa.Column("reminders_sent", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("reminded_at", UtcDateTime()),
        sa.Column("context", JsonObject, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("metadata", JsonObject, nullable=False, server_default=sa.text("'{}'")),
        sa.PrimaryKeyConstraint("conv_id", "owner_id", name="pk_conversations"),
        sa.CheckConstraint(ANY_STATUS, name=op.f("ck_conversations_status")),
    )
