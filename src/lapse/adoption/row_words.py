"""The words of lapse's row functions and triggers: names, statuses and conditions."""

from __future__ import annotations

from lapse.adoption.names import (
    CONVERSATIONS,
    ENDED_FUNCTION,
    ENDED_TRIGGER,
    INSERT_FUNCTION,
    INSERT_TRIGGER,
    KEY_FUNCTION,
    STALE_FUNCTION,
    STALE_TRIGGER,
    TRIGGER_FUNCTIONS,
    UPDATE_FUNCTION,
    UPDATE_TRIGGER,
    Names,
)
from lapse.lifecycle import ConversationStatus

MAX_PAIR_LOCKS = 200
"""Advisory locks of one transaction: each takes an entry in a table that all sessions share, about 60 per session."""

DUPLICATE = "duplicate_session"
"""The reason of the event of a conversation that ends because its pair has a newer one."""
APPLICATION = "application"
"""The actor of that event where the application opened the newer one."""


def _list(*statuses: ConversationStatus) -> str:
    return "(" + ", ".join(f"'{status}'" for status in statuses) + ")"


OPEN = _list(*ConversationStatus.open_statuses())
_ENDED = _list(*ConversationStatus.paused_statuses(), *ConversationStatus.closed_statuses())
# lapse itself changes the version with the status, and knows who answered.
_ANSWERS = (
    "OLD.status = 'pending' AND NEW.status = 'progress' AND NEW.{version} = OLD.{version} "
    "AND NEW.{first_answered_at} IS NULL"
)
_SEED = 0x6C61707365
"""`lapse` in ASCII: separates lapse's advisory locks from those of an application that hashes a similar text."""


def signatures(names: Names) -> list[str]:
    """Return lapse's functions with the types of their parameters."""
    return [
        f"{names.qualified(KEY_FUNCTION)}(text, text, text)",
        *(f"{names.qualified(name)}()" for name in TRIGGER_FUNCTIONS),
    ]


def words(names: Names) -> dict[str, str | int]:
    """Return what the templates of functions and triggers name."""
    return {
        "conversations": names.conversations,
        "events": names.events,
        "schema_text": "'" + names.schema.replace("'", "''") + "'",
        "table_name": CONVERSATIONS,
        "key": names.column("session_key"),
        "version": names.column("version"),
        "answers": _ANSWERS.format(
            version=names.column("version"), first_answered_at=names.column("first_answered_at")
        ),
        "first_answered_at": names.column("first_answered_at"),
        "idle_check_at": names.column("idle_check_at"),
        "idle_timeout_seconds": names.column("idle_timeout_seconds"),
        "key_function": names.qualified(KEY_FUNCTION),
        "insert_function": names.qualified(INSERT_FUNCTION),
        "update_function": names.qualified(UPDATE_FUNCTION),
        "ended_function": names.qualified(ENDED_FUNCTION),
        "stale_function": names.qualified(STALE_FUNCTION),
        "insert_trigger": INSERT_TRIGGER,
        "update_trigger": UPDATE_TRIGGER,
        "ended_trigger": ENDED_TRIGGER,
        "stale_trigger": STALE_TRIGGER,
        "open": OPEN,
        "ended": _ENDED,
        "reason": DUPLICATE,
        "actor": APPLICATION,
        "max_pair_locks": MAX_PAIR_LOCKS,
        "seed": _SEED,
    }
