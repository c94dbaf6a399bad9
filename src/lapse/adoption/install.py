"""The first transaction of an adoption: it installs columns, tables, functions and triggers, and repairs them later."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lapse.adoption.adoption_record import (
    AdoptionRecord,
    record_statements,
    save_columns_statement,
    save_triggers_statement,
)
from lapse.adoption.catalog import Table
from lapse.adoption.names import Names, quoted
from lapse.adoption.required_columns import OPTIONAL
from lapse.adoption.row_triggers import row_functions, row_triggers
from lapse.adoption.session_key_sql import session_key_function
from lapse.adoption.state import AdoptionState
from lapse.adoption.updated_at_triggers import restrict_statements
from lapse.errors import AdoptionError
from lapse.store.table_access import close_statement, share_statement
from lapse.store.table_locks import taking
from lapse.store.table_mapping import ADOPTION_TABLE
from lapse.store.tables import FILLFACTOR, OWN_TABLES

_OPTIONAL_DEFAULTS = {"channel": " DEFAULT 'whatsapp'", "context": " DEFAULT '{}'", "metadata": " DEFAULT '{}'"}
_IDS = ("owner_id", "conv_id")


def install_statements(state: AdoptionState) -> list[str]:
    """Return the statements of the first transaction; those that lock the table until COMMIT come last.

    Raises:
        AdoptionError: a name or an index definition contains the quotes of lapse's functions.
    """
    names, table, record = state.names, state.table, state.effective_record
    restrictions = [
        statement
        for trigger in record.original.triggers
        for statement in restrict_statements(table.triggers[trigger["name"]], names)
    ]
    return [
        *record_statements(names, record, table.owner),
        *_beside(OWN_TABLES.events, names, table),
        *_beside(OWN_TABLES.receipts, names, table),
        close_statement([names.qualified(ADOPTION_TABLE), names.events, names.receipts], keep_logins=False),
        session_key_function(names),
        *row_functions(names, table, ends_others=False),
        *taking(names.conversations),
        _alter_table(names, table, record),
        *row_triggers(names),
        *restrictions,
    ]


def repair_statements(state: AdoptionState) -> list[str]:
    """Return the statements that recreate what is missing or differs, and restrict triggers that were added since.

    Raises:
        AdoptionError: a name or an index definition contains the quotes of lapse's functions, or there is a table
            `message_receipts` that lapse did not make.
    """
    names, table, triggers = state.names, state.table, state.unrestricted_triggers
    if state.is_of_older_lapse and state.has_receipts:
        raise AdoptionError(
            f"the database has a table {names.receipts} that lapse did not make; nothing was changed: rename it"
        )
    receipts = [] if state.has_receipts else _beside(OWN_TABLES.receipts, names, table)
    return [
        *receipts,
        *(_access_to_receipts(names) if receipts else []),
        *([save_columns_statement(names)] if state.is_of_older_lapse else []),
        *([save_triggers_statement(names, triggers)] if triggers else []),
        session_key_function(names),
        *row_functions(names, table, ends_others=state.has_unique_index),
        *taking(names.conversations),
        _alter_table(names, table, state.effective_record),
        *row_triggers(names),
        *(statement for trigger in triggers for statement in restrict_statements(trigger, names)),
    ]


def _access_to_receipts(names: Names) -> list[str]:
    return [share_statement(names.events, names.receipts), close_statement([names.receipts], keep_logins=False)]


def _alter_table(names: Names, table: Table, record: AdoptionRecord) -> str:
    seconds = record.idle_timeout_seconds
    declared = {
        "session_key": "text",
        "version": "bigint NOT NULL DEFAULT 0",
        "policy_id": "bigint",
        "opened_by": "text",
        "last_inbound_at": "timestamptz",
        "last_outbound_at": "timestamptz",
        "first_answered_at": "timestamptz",
        # A row that the application inserts is armed as lapse would arm it. Both defaults are constant for existing
        # rows, so that none of them is rewritten.
        "idle_check_at": f"timestamptz NOT NULL DEFAULT now() + interval '{seconds} seconds'",
        "idle_timeout_seconds": f"bigint NOT NULL DEFAULT {seconds}",
        "hold_until": "timestamptz",
        "reminders_sent": "bigint NOT NULL DEFAULT 0",
        "reminded_at": "timestamptz",
    }
    wanted = {names.columns[name]: declaration for name, declaration in declared.items()}
    wanted |= {name: f"{OPTIONAL[name][0]}{_OPTIONAL_DEFAULTS.get(name, '')}" for name in record.original.optional}
    changes = [f"ADD COLUMN {quoted(name)} {kind}" for name, kind in wanted.items() if name not in table.columns]
    if table.columns["conv_id"].identity == "a":
        changes.append("ALTER COLUMN conv_id SET GENERATED BY DEFAULT")
    changes.append(f"SET (fillfactor = {min(FILLFACTOR, fillfactor(table.options))})")
    return f"ALTER TABLE {names.conversations}\n    " + ",\n    ".join(changes)


def fillfactor(options: Sequence[str]) -> int:
    """Return the fillfactor, in per cent, of a table with these storage parameters."""
    return int(dict(option.split("=", 1) for option in options).get("fillfactor", 100))


def _beside(own: sa.Table, names: Names, table: Table) -> list[str]:
    """Return the statements that create one of lapse's own tables, with the application's types of ids."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    compiler = dialect.ddl_compiler(dialect, sa.schema.CreateTable(own))
    lines = []
    for column in own.columns:
        specification = str(compiler.get_column_specification(column))  # type: ignore[no-untyped-call]
        if column.name in _IDS:
            specification = f"{column.name} {table.columns[column.name].type}{'' if column.nullable else ' NOT NULL'}"
        elif column.name == "version":
            specification = specification.replace("version", names.column("version"), 1)
        lines.append(specification)
    key = ", ".join(
        names.column(column.name) if column.name == "version" else column.name for column in own.primary_key.columns
    )
    lines.append(f"CONSTRAINT pk_{own.name} PRIMARY KEY ({key})")
    name = names.qualified(own.name)
    return [
        f"CREATE TABLE {name} (\n    " + ",\n    ".join(lines) + "\n)",
        f"ALTER TABLE {name} OWNER TO {quoted(table.owner)}",
    ]
