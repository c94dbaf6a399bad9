"""The two tables: conversations and their events."""

from typing import Any

import sqlalchemy as sa
from alembic import context, op

from lapse.store.table_mapping import IdKind
from lapse.store.types import JsonObject, UtcDateTime, id_type, owner_type

revision = "0001"
down_revision = None

ACTIVE = "status IN ('pending', 'progress')"
OPEN = "status IN ('pending', 'progress', 'idle_timeout')"
ANY_STATUS = (
    "status IN ('pending', 'progress', 'idle_timeout', 'agent_closed', 'support_closed', 'user_closed', "
    "'expired', 'failed')"
)


def upgrade() -> None:
    """Create both tables and their indexes."""
    dialect = op.get_context().dialect.name
    conversation_id = id_type(IdKind.UUID, dialect)
    owner_id = owner_type(context.config.attributes.get("owner_type") or IdKind.BIGINT, dialect)
    _create_conversations(owner_id, conversation_id)
    _create_conversation_events(owner_id, conversation_id)
    _create_indexes()


def _create_conversations(owner_id: sa.types.TypeEngine[Any], conversation_id: sa.types.TypeEngine[Any]) -> None:
    op.create_table(
        "conversations",
        sa.Column("owner_id", owner_id, nullable=False),
        sa.Column("conv_id", conversation_id, nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("session_key", sa.Text(), nullable=False),
        sa.Column("from_number", sa.Text(), nullable=False),
        sa.Column("to_number", sa.Text(), nullable=False),
        sa.Column("user_id", sa.BigInteger()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("last_inbound_at", UtcDateTime()),
        sa.Column("ended_at", UtcDateTime()),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("idle_check_at", UtcDateTime(), nullable=False),
        sa.Column("idle_timeout_seconds", sa.BigInteger(), nullable=False),
        sa.Column("context", JsonObject, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("metadata", JsonObject, nullable=False, server_default=sa.text("'{}'")),
        sa.PrimaryKeyConstraint("owner_id", "conv_id", name="pk_conversations"),
        sa.CheckConstraint(ANY_STATUS, name=op.f("ck_conversations_status")),
        postgresql_with={"fillfactor": 85},
    )


def _create_conversation_events(owner_id: sa.types.TypeEngine[Any], conversation_id: sa.types.TypeEngine[Any]) -> None:
    op.create_table(
        "conversation_events",
        sa.Column("owner_id", owner_id, nullable=False),
        sa.Column("conv_id", conversation_id, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=False),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("actor", sa.Text()),
        sa.Column("deadline", UtcDateTime()),
        sa.Column("occurred_at", UtcDateTime(), nullable=False),
        sa.Column("data", JsonObject, nullable=False, server_default=sa.text("'{}'")),
        sa.PrimaryKeyConstraint("owner_id", "conv_id", "version", name="pk_conversation_events"),
    )


def _create_indexes() -> None:
    _partial_index(
        "uq_conversations_open_session",
        ["owner_id", "channel", "session_key"],
        where=OPEN,
        unique=True,
    )
    _partial_index("ix_conversations_expires_at_open", ["expires_at"], where=OPEN)
    _partial_index("ix_conversations_idle_check_at_active", ["idle_check_at"], where=ACTIVE)
    _partial_index("ix_conversations_idle_timeout_seconds_active", ["idle_timeout_seconds"], where=ACTIVE)
    op.create_index(
        "ix_conversations_session_history",
        "conversations",
        ["owner_id", "channel", "session_key", "started_at"],
    )
    op.create_index("ix_conversations_conv_id", "conversations", ["conv_id"])


def _partial_index(name: str, columns: list[str], *, where: str, unique: bool = False) -> None:
    op.create_index(
        name,
        "conversations",
        columns,
        unique=unique,
        postgresql_where=sa.text(where),
        sqlite_where=sa.text(where),
    )
