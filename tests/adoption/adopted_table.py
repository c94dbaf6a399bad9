"""An old table as adoption leaves it, made in one go and empty: to be looked at, since its triggers do nothing."""

from __future__ import annotations

from typing import Any

import psycopg

from lapse.store.schema_version import VERSION_TABLE, head_version
from tests.adoption.old_table import PLAIN, Form, create_old_table

_ACTIVE = "'pending', 'progress'"
_OPEN = f"{_ACTIVE}, 'idle_timeout'"
_CLOSED = "'agent_closed', 'support_closed', 'user_closed', 'expired', 'failed'"
_CHANNEL = "coalesce(lower(btrim(channel)), 'whatsapp'::text)"

_SQL = f"""
    ALTER TABLE conversations ADD COLUMN %key text, ADD COLUMN %version bigint NOT NULL DEFAULT 0,
        ADD COLUMN last_inbound_at timestamptz,
        ADD COLUMN idle_check_at timestamptz NOT NULL DEFAULT now() + interval '1800 seconds',
        ADD COLUMN idle_timeout_seconds bigint NOT NULL DEFAULT 1800,
        ADD CONSTRAINT ck_conversations_session_key CHECK (%key IS NOT NULL);
    CREATE UNIQUE INDEX uq_conversations_open_session ON conversations (owner_id, {_CHANNEL}, %key)
        WHERE status IN ({_OPEN});
    CREATE INDEX ix_conversations_expires_at_open ON conversations (expires_at) WHERE status IN ({_OPEN});
    CREATE INDEX ix_conversations_idle_check_at_active ON conversations (idle_check_at) WHERE status IN ({_ACTIVE});
    CREATE INDEX ix_conversations_idle_timeout_seconds_active ON conversations (idle_timeout_seconds)
        WHERE status IN ({_ACTIVE});
    CREATE INDEX ix_conversations_ended_at_closed ON conversations (ended_at) WHERE status IN ({_CLOSED});
    CREATE INDEX ix_conversations_session_history_not_open ON conversations (owner_id, {_CHANNEL}, %key, started_at)
        WHERE status NOT IN ({_OPEN});
    CREATE TABLE conversation_events (owner_id %owner_type NOT NULL, conv_id %conv_id_type NOT NULL,
        %version bigint NOT NULL, type text NOT NULL, from_status text NOT NULL, to_status text NOT NULL, reason text,
        actor text, deadline timestamptz, occurred_at timestamptz NOT NULL, data jsonb NOT NULL DEFAULT '{{}}',
        PRIMARY KEY (owner_id, conv_id, %version));
    CREATE FUNCTION lapse_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER zz_lapse_insert BEFORE INSERT ON conversations FOR EACH ROW EXECUTE FUNCTION lapse_row();
    CREATE TRIGGER zz_lapse_update BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION lapse_row();
    CREATE TRIGGER aa_lapse_ended BEFORE UPDATE OF status ON conversations FOR EACH ROW EXECUTE FUNCTION lapse_row();
    CREATE OR REPLACE TRIGGER set_updated_at BEFORE UPDATE ON conversations FOR EACH ROW
        WHEN ((NEW.%key, NEW.%version, NEW.idle_check_at, NEW.idle_timeout_seconds)
            IS NOT DISTINCT FROM (OLD.%key, OLD.%version, OLD.idle_check_at, OLD.idle_timeout_seconds))
        EXECUTE FUNCTION set_updated_at();
    CREATE TABLE lapse_adoption (began_at timestamptz NOT NULL, completed_at timestamptz, keep text NOT NULL,
        idle_timeout_seconds bigint NOT NULL, before jsonb NOT NULL);
    INSERT INTO lapse_adoption VALUES (now(), now(), 'newest', 1800, '{{}}');
    CREATE TABLE {VERSION_TABLE} (version_num varchar(32) CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY);
    INSERT INTO {VERSION_TABLE} VALUES ('{head_version()}');"""


def create_adopted_table(connection: psycopg.Connection[Any], form: Form = PLAIN) -> None:
    """Create an old table of this form, with the trigger, and what adoption adds to it."""
    create_old_table(connection, form)
    has_version = any(column.startswith("version ") for column in form.extra_columns)
    names = {
        "%key": "lapse_session_key" if form.session_key else "session_key",
        "%version": "lapse_version" if has_version else "version",
        "%owner_type": form.owner_id,
        "%conv_id_type": form.conv_id,
    }
    statements = _SQL
    for placeholder, name in names.items():
        statements = statements.replace(placeholder, name)
    connection.execute(statements.encode())
