"""An old table as adoption leaves it, made in one go and empty."""

from __future__ import annotations

from lapse.store.schema_version import VERSION_TABLE, head_version
from tests.adoption.old_table import PLAIN, Form
from tests.adoption.routines_installed import Connection, install

_ACTIVE = "'pending', 'progress'"
_OPEN = f"{_ACTIVE}, 'idle_timeout'"
_CLOSED = "'agent_closed', 'support_closed', 'user_closed', 'expired', 'failed'"

_SQL = f"""
    ALTER TABLE conversations ADD CONSTRAINT ck_conversations_session_key CHECK (%key IS NOT NULL);
    CREATE INDEX ix_conversations_expires_at_open ON conversations (expires_at) WHERE status IN ({_OPEN});
    CREATE INDEX ix_conversations_idle_check_at_active ON conversations (idle_check_at) WHERE status IN ({_ACTIVE});
    CREATE INDEX ix_conversations_idle_timeout_seconds_active ON conversations (idle_timeout_seconds)
        WHERE status IN ({_ACTIVE});
    CREATE INDEX ix_conversations_ended_at_closed ON conversations (ended_at) WHERE status IN ({_CLOSED});
    CREATE INDEX ix_conversations_session_history_not_open ON conversations
        (owner_id, coalesce(lower(btrim(channel)), 'whatsapp'::text), %key, started_at) WHERE status NOT IN ({_OPEN});
    CREATE TABLE lapse_adoption (began_at timestamptz NOT NULL, completed_at timestamptz, keep text NOT NULL,
        idle_timeout_seconds bigint NOT NULL, before jsonb NOT NULL);
    INSERT INTO lapse_adoption VALUES (now(), now(), 'newest', 1800, '{{}}');
    CREATE TABLE {VERSION_TABLE} (version_num varchar(32) CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY);
    INSERT INTO {VERSION_TABLE} VALUES ('{head_version()}');"""


def create_adopted_table(connection: Connection, form: Form = PLAIN) -> None:
    """Create an old table of this form, and what adoption adds to it."""
    names = install(connection, form)
    connection.execute(_SQL.replace("%key", names.column("session_key")).encode())
