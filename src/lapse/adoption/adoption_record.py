"""`lapse_adoption`: one row with the state of an adoption, and the table's original definition."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from psycopg import Connection, sql

from lapse.adoption.catalog import Table, Trigger
from lapse.adoption.names import Names, quoted
from lapse.adoption.required_columns import OPTIONAL
from lapse.adoption.updated_at_triggers import touches_updated_at
from lapse.store.table_mapping import ADOPTION_TABLE, LAPSE_COLUMNS, PREFIX

NEWEST = "newest"
KEEP_CHOICES = (NEWEST, "oldest")
"""Which of a pair's open conversations stays open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalTable:
    """The definition of the application's table before adoption: all that reverting needs."""

    columns: Mapping[str, str]
    """Lapse's columns, and their names in this table; adoption adds all of them."""
    optional: Sequence[str]
    """Optional columns of the application that were missing; adoption adds them, too."""
    triggers: Sequence[Mapping[str, str]]
    """The triggers that adoption restricts: `name`, `definition` and `enabled`."""
    options: Sequence[str]
    """The table's storage parameters."""
    identity: str
    """Of conv_id: `a` for GENERATED ALWAYS, which becomes BY DEFAULT."""
    export: str | None = None
    """The file to which an interrupted revert exported the history; None where no revert has begun."""

    @property
    def is_of_older_lapse(self) -> bool:
        """Tell whether an older lapse stored it: it names only the columns that there were then."""
        return len(self.columns) < len(LAPSE_COLUMNS)

    def completed(self, table: Table) -> OriginalTable:
        """Return the definition with the columns that lapse has had since, which are not in this table yet."""
        return replace(self, columns=_names_in(table) | dict(self.columns))

    @classmethod
    def of(cls, table: Table) -> OriginalTable:
        """Return the definition of this table."""
        return cls(
            columns=_names_in(table),
            optional=[name for name in OPTIONAL if name not in table.columns],
            triggers=[
                trigger_definition(trigger) for trigger in table.triggers.values() if touches_updated_at(trigger)
            ],
            options=list(table.options),
            identity=table.columns["conv_id"].identity,
        )


def _names_in(table: Table) -> dict[str, str]:
    return {name: PREFIX + name if name in table.columns else name for name in LAPSE_COLUMNS}


def trigger_definition(trigger: Trigger) -> dict[str, str]:
    """Return what is needed to create a trigger again as it is."""
    return {"name": trigger.name, "definition": trigger.definition, "enabled": trigger.enabled}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionRecord:
    """The row of `lapse_adoption`."""

    original: OriginalTable
    keep: str = NEWEST
    idle_timeout_seconds: int
    began_at: datetime | None = field(default=None)
    """None for an adoption that has not begun."""
    completed_at: datetime | None = None
    """None while the adoption is in progress, or was interrupted."""


def read_record(connection: Connection[Any], schema: str) -> AdoptionRecord | None:
    """Return the row, or None where no adoption has begun.

    Raises:
        psycopg.Error: the role lacks a privilege, or the connection is lost.
    """
    name = f"{quoted(schema)}.{ADOPTION_TABLE}"
    exists = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
    if exists is None or not exists[0]:
        return None
    row = connection.execute(
        f"SELECT before, keep, idle_timeout_seconds, began_at, completed_at FROM {name}".encode()  # noqa: S608 - quoted
    ).fetchone()
    if row is None:
        return None
    original, keep, seconds, began_at, completed_at = row
    return AdoptionRecord(
        original=OriginalTable(**(original if isinstance(original, dict) else json.loads(original))),
        keep=keep,
        idle_timeout_seconds=seconds,
        began_at=began_at,
        completed_at=completed_at,
    )


def record_statements(names: Names, record: AdoptionRecord, owner: str) -> list[str]:
    """Return the statements that create the table and insert its row."""
    name = names.qualified(ADOPTION_TABLE)
    original = sql.Literal(json.dumps(asdict(record.original), sort_keys=True)).as_string()
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
        f"    VALUES ('{record.keep}', {record.idle_timeout_seconds}, {original})",
    ]


def save_columns_statement(names: Names) -> str:
    """Return the statement that stores the names of lapse's columns, which an older lapse did not all know."""
    columns = sql.Literal(json.dumps(dict(names.columns), sort_keys=True)).as_string()
    return f"UPDATE {names.qualified(ADOPTION_TABLE)} SET before = jsonb_set(before, '{{columns}}', {columns}::jsonb)"  # noqa: S608 - quoted


def save_triggers_statement(names: Names, triggers: Sequence[Trigger]) -> str:
    """Return the statement that adds definitions of triggers to the record."""
    added = json.dumps([trigger_definition(trigger) for trigger in triggers], sort_keys=True)
    return (
        f"UPDATE {names.qualified(ADOPTION_TABLE)} SET before =\n"  # noqa: S608 - quoted
        f"    jsonb_set(before, '{{triggers}}', (before -> 'triggers') || {sql.Literal(added).as_string()}::jsonb)"
    )


def begin_revert_statement(names: Names, export: str) -> str:
    """Return the statement that marks the adoption as incomplete, and stores the path of the export of its history."""
    path = sql.Literal(json.dumps(export)).as_string()
    return (
        f"UPDATE {names.qualified(ADOPTION_TABLE)} SET completed_at = NULL,\n"  # noqa: S608 - quoted
        f"    before = jsonb_set(before, '{{export}}', {path}::jsonb)"
    )
