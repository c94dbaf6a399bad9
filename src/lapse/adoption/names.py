"""The names of the objects that lapse adds to an application's database, and their spelling in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from psycopg import sql

from lapse.store.table_mapping import LAPSE_COLUMNS

CONVERSATIONS = "conversations"
EVENTS = "conversation_events"
RECEIPTS = "message_receipts"
KEY_FUNCTION = "lapse_session_key"
INSERT_FUNCTION = "lapse_before_insert"
UPDATE_FUNCTION = "lapse_before_update"
ENDED_FUNCTION = "lapse_already_ended"
STALE_FUNCTION = "lapse_stale_version"
INSERT_TRIGGER = "zz_lapse_insert"
UPDATE_TRIGGER = "zz_lapse_update"
ENDED_TRIGGER = "aa_lapse_ended"
STALE_TRIGGER = "aa_lapse_stale"
HELPER_INDEX = "ix_conversations_open_session"
"""Temporary and not unique: used to find duplicates until the unique index can be created."""
KEY_CONSTRAINT = "ck_conversations_session_key"
LAPSE_TRIGGERS = (INSERT_TRIGGER, UPDATE_TRIGGER, ENDED_TRIGGER, STALE_TRIGGER)
TRIGGER_FUNCTIONS = (INSERT_FUNCTION, UPDATE_FUNCTION, ENDED_FUNCTION, STALE_FUNCTION)

# None of them is a keyword of SQL: they need no quotes, and are easier to read without.
_PLAIN = frozenset(
    {
        "public",
        CONVERSATIONS,
        EVENTS,
        RECEIPTS,
        KEY_FUNCTION,
        *TRIGGER_FUNCTIONS,
        *LAPSE_TRIGGERS,
        *LAPSE_COLUMNS,
        *(f"lapse_{name}" for name in LAPSE_COLUMNS),
        "owner_id",
        "conv_id",
        "from_number",
        "to_number",
    }
)


def quoted(name: str) -> str:
    """Return an identifier as SQL spells it, quoted where necessary."""
    return name if name in _PLAIN else sql.Identifier(name).as_string()


@dataclass(frozen=True, kw_only=True)
class Names:
    """The schema of the application's table, and the names of lapse's columns in it."""

    schema: str = "public"
    columns: Mapping[str, str] = field(default_factory=lambda: {name: name for name in LAPSE_COLUMNS})
    """Each of `LAPSE_COLUMNS`, and its name in this table."""

    @property
    def conversations(self) -> str:
        """Return the schema-qualified name of the application's table."""
        return self.qualified(CONVERSATIONS)

    @property
    def events(self) -> str:
        """Return the schema-qualified name of the table of events."""
        return self.qualified(EVENTS)

    @property
    def receipts(self) -> str:
        """Return the schema-qualified name of the table of receipts."""
        return self.qualified(RECEIPTS)

    def column(self, name: str) -> str:
        """Return one of lapse's columns as SQL spells it here."""
        return quoted(self.columns[name])

    def qualified(self, name: str) -> str:
        """Return the schema-qualified name of an object as SQL spells it."""
        return f"{quoted(self.schema)}.{quoted(name)}"
