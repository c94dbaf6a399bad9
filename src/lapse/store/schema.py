"""The two tables. A message touches none of their indexed columns, so that it is a HOT update on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from lapse.lifecycle import ConversationStatus
from lapse.store.types import ConversationId, JsonObject, OwnerId, UserId, UtcDateTime

FILLFACTOR = 85
"""Per cent of a page filled by inserts: the rest takes the next version of a row, without which no update is HOT."""


def status_in(column: sa.ColumnElement[str], statuses: Iterable[str]) -> sa.ColumnElement[bool]:
    """Return `column IN (…)` with the statuses as literals: a partial index only matches literals."""
    return column.in_([sa.literal_column(f"'{status}'") for status in statuses])


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("owner_id", OwnerId, nullable=False),
    sa.Column("conv_id", ConversationId, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("session_key", sa.Text, nullable=False),
    sa.Column("from_number", sa.Text, nullable=False),
    sa.Column("to_number", sa.Text, nullable=False),
    sa.Column("user_id", UserId),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("last_inbound_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    # The moment at which the sweep looks again, and the idle timeout from which it was computed: a sweep with a
    # shorter timeout finds by the latter which rows it would otherwise see too late.
    sa.Column("idle_check_at", UtcDateTime, nullable=False),
    sa.Column("idle_timeout_seconds", sa.BigInteger, nullable=False),
    sa.Column("context", JsonObject, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("metadata", JsonObject, nullable=False, server_default=sa.text("'{}'")),
    # owner_id first, and in every unique key: the table can be distributed by owner without a rewrite.
    sa.PrimaryKeyConstraint("owner_id", "conv_id"),
    sa.CheckConstraint(status_in(sa.column("status"), ConversationStatus), name="status"),
    postgresql_with={"fillfactor": FILLFACTOR},
)

conversation_events = sa.Table(
    "conversation_events",
    metadata,
    sa.Column("owner_id", OwnerId, nullable=False),
    sa.Column("conv_id", ConversationId, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("from_status", sa.Text, nullable=False),
    sa.Column("to_status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("actor", sa.Text),
    sa.Column("deadline", UtcDateTime),
    sa.Column("occurred_at", UtcDateTime, nullable=False),
    sa.Column("data", JsonObject, nullable=False, server_default=sa.text("'{}'")),
    sa.PrimaryKeyConstraint("owner_id", "conv_id", "version"),
)

is_active = status_in(conversations.c.status, ConversationStatus.active_statuses())
is_open = status_in(conversations.c.status, ConversationStatus.open_statuses())
is_closed = status_in(conversations.c.status, ConversationStatus.closed_statuses())


def _partial(name: str, *columns: str, where: sa.ColumnElement[bool], unique: bool = False) -> sa.Index:
    return sa.Index(
        name,
        *(conversations.c[column] for column in columns),
        unique=unique,
        postgresql_where=where,
        sqlite_where=where,
    )


open_session = _partial(
    "uq_conversations_open_session",
    "owner_id",
    "channel",
    "session_key",
    where=is_open,
    unique=True,
)
expires_at_index = _partial("ix_conversations_expires_at_open", "expires_at", where=is_open)
idle_check_index = _partial("ix_conversations_idle_check_at_active", "idle_check_at", where=is_active)
idle_timeout_index = _partial("ix_conversations_idle_timeout_seconds_active", "idle_timeout_seconds", where=is_active)
ended_at_index = _partial("ix_conversations_ended_at_closed", "ended_at", where=is_closed)
# What is open stands in the unique index: a conversation is entered here once, when it ends.
history_index = _partial(
    "ix_conversations_session_history_not_open",
    "owner_id",
    "channel",
    "session_key",
    "started_at",
    where=~is_open,
)
conv_id_index = sa.Index("ix_conversations_conv_id", conversations.c.conv_id)
