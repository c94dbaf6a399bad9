"""The state of an adoption, read from the catalog and from `lapse_adoption`: nothing else is stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from psycopg import Connection

from lapse.adoption.adoption_record import NEWEST, AdoptionRecord, OriginalTable, read_record
from lapse.adoption.backfill import has_unfilled_rows
from lapse.adoption.catalog import Table, Trigger, read_table
from lapse.adoption.names import CONVERSATIONS, HELPER_INDEX, KEY_CONSTRAINT, LAPSE_TRIGGERS, RECEIPTS, Names
from lapse.adoption.row_triggers import row_functions
from lapse.adoption.session_key_sql import session_key_function
from lapse.adoption.updated_at_triggers import is_restricted, touches_updated_at
from lapse.adoption.wanted_indexes import WantedIndex, wanted_indexes
from lapse.errors import AdoptionError
from lapse.store.table_mapping import VERSION_TABLE
from lapse.store.tables import OWN_TABLES

_SCHEMA = """
    SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)"""
_BODIES = """
    SELECT p.proname, p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = %s AND starts_with(p.proname, 'lapse_')"""
_BODY = re.compile(r"\$lapse\$(.*)\$lapse\$", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class AdoptionState:
    """The table, and what lapse has installed on it so far."""

    connection: Connection[Any]
    table: Table
    record: AdoptionRecord | None
    """None where no adoption has begun."""
    names: Names
    is_of_older_lapse: bool
    """The record is: what lapse has had since is missing."""
    has_receipts: bool
    """There is a table of the name of lapse's receipts."""
    has_version_table: bool
    """`lapse_schema_version` exists: lapse's other commands accept the database."""
    effective_record: AdoptionRecord
    """`record`, or what an adoption that begins now would store."""
    function_bodies: Mapping[str, str]
    """Of lapse's functions that exist."""

    @cached_property
    def is_backfilled(self) -> bool:
        """Tell whether every row has lapse's key; where the constraint exists, the rows are not read."""
        if self.names.columns["session_key"] not in self.table.columns:
            return False
        return KEY_CONSTRAINT in self.table.constraints or not has_unfilled_rows(self.connection, self.names)

    @property
    def missing_columns(self) -> list[str]:
        """Return the columns that adoption added and that were dropped since, by lapse's names."""
        original = self.effective_record.original
        missing = [name for name, column in original.columns.items() if column not in self.table.columns]
        return missing + [name for name in original.optional if name not in self.table.columns]

    @property
    def is_installed(self) -> bool:
        """Tell whether everything exists that the first step of an adoption creates."""
        is_damaged = self.missing_columns or self.missing_triggers or self.unrestricted_triggers
        return self.has_functions and self.has_receipts and not (is_damaged or self.is_of_older_lapse)

    @cached_property
    def has_functions(self) -> bool:
        """Tell whether lapse's functions exist, in one of their two forms."""
        return self.ends_others or self._has_functions(ends_others=False)

    @property
    def missing_triggers(self) -> list[str]:
        """Return lapse's triggers that do not exist, or are disabled."""
        triggers = self.table.triggers
        return [name for name in LAPSE_TRIGGERS if name not in triggers or not triggers[name].fires]

    @property
    def unrestricted_triggers(self) -> list[Trigger]:
        """Return the application's triggers that set `updated_at` when lapse updates its own columns."""
        return [
            trigger
            for trigger in self.table.triggers.values()
            if trigger.fires and touches_updated_at(trigger) and not is_restricted(trigger, self.names)
        ]

    @property
    def is_constraint_valid(self) -> bool:
        """Tell whether the constraint on the key exists and is validated for all rows."""
        constraint = self.table.constraints.get(KEY_CONSTRAINT)
        return constraint is not None and constraint.is_valid

    @cached_property
    def ends_others(self) -> bool:
        """Tell whether a conversation that the application opens ends the pair's other ones."""
        return self._has_functions(ends_others=True)

    def _has_functions(self, *, ends_others: bool) -> bool:
        statements = [session_key_function(self.names), *row_functions(self.names, self.table, ends_others=ends_others)]
        wanted = [body[1] for statement in statements if (body := _BODY.search(statement))]
        return set(wanted) <= set(self.function_bodies.values())

    def plain_indexes(self) -> list[WantedIndex]:
        """Return lapse's indexes, all but the unique one."""
        return [index for index in wanted_indexes(self.names.columns, is_adopted=True) if not index.is_unique]

    def unique_index(self) -> WantedIndex:
        """Return the index that allows one open conversation per pair."""
        (unique,) = (index for index in wanted_indexes(self.names.columns, is_adopted=True) if index.is_unique)
        return unique

    def helper_index(self) -> WantedIndex:
        """Return the index on the same columns that is not unique, under another name."""
        return WantedIndex(name=HELPER_INDEX, is_unique=False, body=self.unique_index().body)

    def has_index(self, index: WantedIndex) -> bool:
        """Tell whether the index exists and is valid.

        Raises:
            AdoptionError: another index has its name.
        """
        existing = self.table.indexes.get(index.name)
        if existing is not None and not index.matches(existing):
            raise AdoptionError(
                f"the table has another index of the name {index.name}: rename it "
                f"(ALTER INDEX {index.name} RENAME TO ...) and run it again"
            )
        return existing is not None and existing.is_valid

    @property
    def has_unique_index(self) -> bool:
        """Tell whether the database guarantees one open conversation per pair."""
        index = self.table.indexes.get(str(OWN_TABLES.open_session.name))
        return index is not None and index.is_valid and self.record is not None


def read_state(connection: Connection[Any], *, keep: str | None, idle_timeout_seconds: int) -> AdoptionState:
    """Return the state of the adoption.

    Args:
        connection: in autocommit mode.
        keep: for an adoption that has not begun: which of a pair's open conversations stays open; None for the newest.
        idle_timeout_seconds: for an adoption that has not begun: the idle timeout of the application's rows.

    Raises:
        AdoptionError: there is no table conversations.
        psycopg.Error: the database refused, or the connection is lost.
    """
    with connection.transaction():
        row = connection.execute(_SCHEMA, [CONVERSATIONS]).fetchone()
        if row is None:
            raise AdoptionError("the database has no table conversations in the role's search_path")
        plain = Names(schema=row[0])
        # PostgreSQL then prints definitions with schemas, which resolve for whatever role reverts the adoption.
        connection.execute("SET LOCAL search_path = ''")
        table = read_table(connection, plain.conversations)
        has_receipts = read_table(connection, plain.qualified(RECEIPTS)) is not None
        has_version_table = read_table(connection, plain.qualified(VERSION_TABLE)) is not None
        record = read_record(connection, plain.schema)
        bodies = dict(connection.execute(_BODIES, [plain.schema]).fetchall())
    if table is None:
        raise AdoptionError("the table conversations was dropped meanwhile")
    is_of_older_lapse = record is not None and record.original.is_of_older_lapse
    if record is not None:
        record = replace(record, original=record.original.completed(table))
    effective_record = record or AdoptionRecord(
        original=OriginalTable.of(table), keep=keep or NEWEST, idle_timeout_seconds=idle_timeout_seconds
    )
    return AdoptionState(
        connection=connection,
        table=table,
        record=record,
        names=Names(schema=table.schema, columns=effective_record.original.columns),
        is_of_older_lapse=is_of_older_lapse,
        has_receipts=has_receipts,
        has_version_table=has_version_table,
        effective_record=effective_record,
        function_bodies=bodies,
    )
