"""The legacy table with lapse's columns, functions and triggers, as adoption leaves it: for tests of these alone."""

from __future__ import annotations

from typing import Any

import psycopg

from lapse.adoption.catalog import Table, read_table
from lapse.adoption.names import Names
from lapse.adoption.row_triggers import row_functions, row_triggers
from lapse.adoption.session_key_sql import session_key_function
from lapse.adoption.updated_at_triggers import restrict_statements, touches_updated_at
from lapse.store.table_mapping import LAPSE_COLUMNS
from tests.adoption.legacy_table import PLAIN, Form, create_legacy_table

IDLE_SECONDS = 1_800
Connection = psycopg.Connection[Any]


def table_of(connection: Connection, name: str = "conversations") -> Table:
    """Return what the catalog says of the table."""
    table = read_table(connection, name)
    assert table
    return table


def run(connection: Connection, *statements: str) -> None:
    """Run the statements, one by one."""
    for statement in statements:
        connection.execute(statement.encode())


def install(connection: Connection, form: Form = PLAIN, *, ends_others: bool = True, unique: bool = True) -> Names:
    """Make the legacy table and put lapse's columns, functions and triggers on it."""
    create_legacy_table(connection, form)
    table = table_of(connection)
    names = Names(columns={name: f"lapse_{name}" if name in table.columns else name for name in LAPSE_COLUMNS})
    run(connection, *columns_and_events(names, table), *functions_and_triggers(names, table, ends_others=ends_others))
    if unique:
        run(connection, unique_index(names))
    return names


def columns_and_events(names: Names, table: Table) -> list[str]:
    """Return the statements that add lapse's columns and its table of events."""
    column = names.column
    return [
        f"""ALTER TABLE {names.conversations} ADD COLUMN {column("session_key")} text,
            ADD COLUMN {column("version")} bigint NOT NULL DEFAULT 0, ADD COLUMN last_inbound_at timestamptz,
            ADD COLUMN {column("policy_id")} bigint, ADD COLUMN {column("opened_by")} text,
            ADD COLUMN {column("last_outbound_at")} timestamptz, ADD COLUMN {column("first_answered_at")} timestamptz,
            ADD COLUMN {column("hold_until")} timestamptz, ADD COLUMN {column("reminded_at")} timestamptz,
            ADD COLUMN {column("reminders_sent")} bigint NOT NULL DEFAULT 0,
            ADD COLUMN {column("idle_check_at")} timestamptz NOT NULL DEFAULT now() + interval '{IDLE_SECONDS} seconds',
            ADD COLUMN {column("idle_timeout_seconds")} bigint NOT NULL DEFAULT {IDLE_SECONDS}""",
        f"""CREATE TABLE {names.events} (owner_id {table.columns["owner_id"].type},
            conv_id {table.columns["conv_id"].type}, {column("version")} bigint, type text NOT NULL,
            from_status text NOT NULL, to_status text NOT NULL, reason text, actor text, deadline timestamptz,
            occurred_at timestamptz NOT NULL, data jsonb NOT NULL DEFAULT '{{}}',
            PRIMARY KEY (owner_id, conv_id, {column("version")}))""",
    ]


def functions_and_triggers(names: Names, table: Table, *, ends_others: bool) -> list[str]:
    """Return the statements that create the functions and triggers, and restrict the application's."""
    statements = [session_key_function(names), *row_functions(names, table, ends_others=ends_others)]
    statements += row_triggers(names)
    for trigger in filter(touches_updated_at, table.triggers.values()):
        statements += restrict_statements(trigger, names)
    return statements


def unique_index(names: Names) -> str:
    """Return the statement that makes the index of open conversations."""
    return f"""CREATE UNIQUE INDEX uq_conversations_open_session ON {names.conversations}
        (owner_id, coalesce(lower(btrim(channel)), 'whatsapp'::text), {names.column("session_key")})
        WHERE status IN ('pending', 'progress', 'idle_timeout')"""
