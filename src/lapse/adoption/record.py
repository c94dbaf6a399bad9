"""`lapse_adoption`: one row that says how far an adoption is, and what the table was like before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from psycopg import Connection, sql

from lapse.adoption.catalog import Table, Trigger
from lapse.adoption.names import Names, quoted
from lapse.adoption.required_columns import OPTIONAL
from lapse.adoption.updated_at_triggers import touches_updated_at
from lapse.store.layout import ADOPTION_TABLE, LAPSE_COLUMNS, PREFIX

NEWEST = "newest"
KEEP = (NEWEST, "oldest")
"""Which of a pair's open conversations may stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What the application's table was like: all that it takes to go back."""

    columns: Mapping[str, str]
    """Lapse's columns, and their names in this table; all of them were added."""
    optional: Sequence[str]
    """Columns that an application may have, and that were added, too."""
    triggers: Sequence[Mapping[str, str]]
    """Those that were narrowed: `name`, `definition` and `enabled`."""
    options: Sequence[str]
    """The table's storage parameters."""
    identity: str
    """Of conv_id: `a` for GENERATED ALWAYS, which became BY DEFAULT."""
    export: str | None = None
    """The file into which a return, which was interrupted then, wrote the history."""

    @classmethod
    def of(cls, table: Table) -> Before:
        """Return what this table is like."""
        return cls(
            columns={name: PREFIX + name if name in table.columns else name for name in LAPSE_COLUMNS},
            optional=[name for name in OPTIONAL if name not in table.columns],
            triggers=[kept(trigger) for trigger in table.triggers.values() if touches_updated_at(trigger)],
            options=list(table.options),
            identity=table.columns["conv_id"].identity,
        )


def kept(trigger: Trigger) -> dict[str, str]:
    """Return what it takes to make a trigger again as it is."""
    return {"name": trigger.name, "definition": trigger.definition, "enabled": trigger.enabled}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The row."""

    before: Before
    keep: str = NEWEST
    idle_timeout_seconds: int
    began_at: datetime | None = field(default=None)
    completed_at: datetime | None = None
    """None while the adoption goes on, or was interrupted."""


def read_record(connection: Connection[Any], schema: str) -> Record | None:
    """Return the row, or None where no adoption has begun."""
    name = f"{quoted(schema)}.{ADOPTION_TABLE}"
    found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
    if found is None or not found[0]:
        return None
    row = connection.execute(
        f"SELECT before, keep, idle_timeout_seconds, began_at, completed_at FROM {name}".encode()  # noqa: S608 - quoted
    ).fetchone()
    if row is None:
        return None
    before, keep, seconds, began_at, completed_at = row
    return Record(
        before=Before(**(before if isinstance(before, dict) else json.loads(before))),
        keep=keep,
        idle_timeout_seconds=seconds,
        began_at=began_at,
        completed_at=completed_at,
    )


def record_statements(names: Names, record: Record, owner: str) -> list[str]:
    """Return the statements that make the table and write its row."""
    name = names.qualified(ADOPTION_TABLE)
    before = sql.Literal(json.dumps(asdict(record.before), sort_keys=True)).as_string()
    return [
        f"CREATE TABLE {name} (\n"
        "    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),\n"
        "    began_at timestamptz NOT NULL DEFAULT now(),\n"
        "    completed_at timestamptz,\n"
        "    keep text NOT NULL,\n"
        "    idle_timeout_seconds bigint NOT NULL,\n"
        "    before jsonb NOT NULL\n)",
        f"ALTER TABLE {name} OWNER TO {quoted(owner)}",
        f"INSERT INTO {name} (keep, idle_timeout_seconds, before)\n"  # noqa: S608 - quoted
        f"    VALUES ('{record.keep}', {record.idle_timeout_seconds}, {before})",
    ]


def keep_triggers_statement(names: Names, triggers: Sequence[Trigger]) -> str:
    """Return the statement that adds triggers to those that are kept."""
    more = sql.Literal(json.dumps([kept(trigger) for trigger in triggers], sort_keys=True)).as_string()
    return (
        f"UPDATE {names.qualified(ADOPTION_TABLE)} SET before =\n"  # noqa: S608 - quoted
        f"    jsonb_set(before, '{{triggers}}', (before -> 'triggers') || {more}::jsonb)"
    )


def returning_statement(names: Names, export: str) -> str:
    """Return the statement that says: the adoption is not complete any more, and where its history goes."""
    file = sql.Literal(json.dumps(export)).as_string()
    return (
        f"UPDATE {names.qualified(ADOPTION_TABLE)} SET completed_at = NULL,\n"  # noqa: S608 - quoted
        f"    before = jsonb_set(before, '{{export}}', {file}::jsonb)"
    )
