"""How far an adoption is, read from the catalog and from `lapse_adoption`: nothing else is remembered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from psycopg import Connection

from lapse.adoption.backfill import is_row_left
from lapse.adoption.catalog import Table, Trigger, read_table
from lapse.adoption.names import CONVERSATIONS, HELPER_INDEX, KEY_CONSTRAINT, LAPSE_TRIGGERS, Names
from lapse.adoption.record import NEWEST, Before, Record, read_record
from lapse.adoption.row_triggers import row_functions
from lapse.adoption.session_key_sql import session_key_function
from lapse.adoption.updated_at_triggers import is_narrowed, touches_updated_at
from lapse.adoption.wanted_indexes import WantedIndex, wanted_indexes
from lapse.errors import AdoptionError
from lapse.store.layout import VERSION_TABLE
from lapse.store.schema import open_session

_SCHEMA = """
    SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)"""
_BODIES = """
    SELECT p.proname, p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = %s AND starts_with(p.proname, 'lapse_')"""
_BODY = re.compile(r"\$lapse\$(.*)\$lapse\$", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The table, and what lapse has put on it so far."""

    connection: Connection[Any]
    table: Table
    record: Record | None
    names: Names
    has_version: bool
    """`lapse_schema_version` is there: lapse's other commands take the database."""
    new: Record
    """What an adoption that begins now would keep."""
    bodies: Mapping[str, str]
    """Of lapse's functions that are there."""

    @cached_property
    def is_filled(self) -> bool:
        """Every row has lapse's key: where the constraint says so, nobody looks."""
        if self.names.columns["session_key"] not in self.table.columns:
            return False
        return KEY_CONSTRAINT in self.table.constraints or not is_row_left(self.connection, self.names)

    @property
    def lost_columns(self) -> list[str]:
        """Those that adoption added and somebody has dropped, by lapse's names."""
        before = self.new.before
        lost = [name for name, column in before.columns.items() if column not in self.table.columns]
        return lost + [name for name in before.optional if name not in self.table.columns]

    @property
    def is_whole(self) -> bool:
        """All is there that the first step of an adoption makes."""
        is_lost = self.lost_columns or self.lost_triggers or self.wide_triggers
        return self.has_functions and not is_lost

    @cached_property
    def has_functions(self) -> bool:
        """Lapse's functions are there, in one of their two forms."""
        return self.ends_others or self._are_functions(ends_others=False)

    @property
    def lost_triggers(self) -> list[str]:
        """Lapse's own that are not there, or switched off."""
        found = self.table.triggers
        return [name for name in LAPSE_TRIGGERS if name not in found or not found[name].fires]

    @property
    def wide_triggers(self) -> list[Trigger]:
        """The application's that set `updated_at` for lapse's own bookkeeping, too."""
        return [
            trigger
            for trigger in self.table.triggers.values()
            if trigger.fires and touches_updated_at(trigger) and not is_narrowed(trigger, self.names)
        ]

    @property
    def is_key_checked(self) -> bool:
        """The constraint holds for all rows."""
        found = self.table.constraints.get(KEY_CONSTRAINT)
        return found is not None and found.is_valid

    @cached_property
    def ends_others(self) -> bool:
        """What the application opens ends the pair's other conversations."""
        return self._are_functions(ends_others=True)

    def _are_functions(self, *, ends_others: bool) -> bool:
        statements = [session_key_function(self.names), *row_functions(self.names, self.table, ends_others=ends_others)]
        wanted = [found[1] for statement in statements if (found := _BODY.search(statement))]
        return set(wanted) <= set(self.bodies.values())

    def wanted(self) -> list[WantedIndex]:
        """Return lapse's indexes, all but the unique one."""
        return [index for index in wanted_indexes(self.names.columns, is_adopted=True) if not index.is_unique]

    def unique(self) -> WantedIndex:
        """Return the index that lets a pair have one open conversation."""
        (found,) = (index for index in wanted_indexes(self.names.columns, is_adopted=True) if index.is_unique)
        return found

    def helper(self) -> WantedIndex:
        """Return the same, under another name and not unique."""
        return WantedIndex(name=HELPER_INDEX, is_unique=False, body=self.unique().body)

    def is_there(self, index: WantedIndex) -> bool:
        """Tell whether the index is there and can be used.

        Raises:
            AdoptionError: another index has its name.
        """
        found = self.table.indexes.get(index.name)
        if found is not None and not index.is_made_by(found):
            raise AdoptionError(
                f"the table has another index of the name {index.name}: rename it "
                f"(ALTER INDEX {index.name} RENAME TO ...) and run it again"
            )
        return found is not None and found.is_valid

    @property
    def has_unique_index(self) -> bool:
        """Tell whether the database guarantees one open conversation per pair."""
        found = self.table.indexes.get(str(open_session.name))
        return found is not None and found.is_valid and self.record is not None


def read_facts(connection: Connection[Any], *, keep: str | None, idle_timeout_seconds: int) -> Facts:
    """Return how far an adoption is.

    Args:
        connection: in autocommit mode.
        keep: which of a pair's open conversations stays, if the adoption begins now; None for the newest.
        idle_timeout_seconds: as well.

    Raises:
        AdoptionError: there is no table.
    """
    with connection.transaction():
        row = connection.execute(_SCHEMA, [CONVERSATIONS]).fetchone()
        if row is None:
            raise AdoptionError("the database has no table conversations in the role's search_path")
        plain = Names(schema=row[0])
        # What is not PostgreSQL's own is spelled with its schema then, and is found again by whatever role goes back.
        connection.execute("SET LOCAL search_path = ''")
        table = read_table(connection, plain.conversations)
        has_version = read_table(connection, plain.qualified(VERSION_TABLE)) is not None
        record = read_record(connection, plain.schema)
        bodies = dict(connection.execute(_BODIES, [plain.schema]).fetchall())
    if table is None:
        raise AdoptionError("the table conversations is gone")
    new = record or Record(before=Before.of(table), keep=keep or NEWEST, idle_timeout_seconds=idle_timeout_seconds)
    return Facts(
        connection=connection,
        table=table,
        record=record,
        names=Names(schema=table.schema, columns=new.before.columns),
        has_version=has_version,
        new=new,
        bodies=bodies,
    )
