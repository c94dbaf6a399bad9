"""What lapse calls the things that it adds to an application's database, spelled as SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from psycopg import sql

from lapse.store.layout import LAPSE_COLUMNS

CONVERSATIONS = "conversations"
EVENTS = "conversation_events"
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
"""Not unique: by it duplicates are found until there are none, and the unique index can be."""
KEY_CONSTRAINT = "ck_conversations_session_key"
LAPSE_TRIGGERS = (INSERT_TRIGGER, UPDATE_TRIGGER, ENDED_TRIGGER, STALE_TRIGGER)
TRIGGER_FUNCTIONS = (INSERT_FUNCTION, UPDATE_FUNCTION, ENDED_FUNCTION, STALE_FUNCTION)

# No keyword of SQL among them: they need no quotes, and are easier to read without.
_PLAIN = frozenset(
    {
        "public",
        CONVERSATIONS,
        EVENTS,
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
    """Return the name of a thing of the database as SQL spells it."""
    return name if name in _PLAIN else sql.Identifier(name).as_string()


@dataclass(frozen=True, kw_only=True)
class Names:
    """Where the application keeps its conversations, and what lapse's columns are called there."""

    schema: str = "public"
    columns: Mapping[str, str] = field(default_factory=lambda: {name: name for name in LAPSE_COLUMNS})
    """Each of `LAPSE_COLUMNS`, and its name in this table."""

    @property
    def conversations(self) -> str:
        """The application's table, with its schema."""
        return self.qualified(CONVERSATIONS)

    @property
    def events(self) -> str:
        """The table of events, with its schema."""
        return self.qualified(EVENTS)

    def column(self, name: str) -> str:
        """Return one of lapse's columns as SQL spells it here."""
        return quoted(self.columns[name])

    def qualified(self, name: str) -> str:
        """Return the name of a thing of the schema as SQL spells it."""
        return f"{quoted(self.schema)}.{quoted(name)}"
