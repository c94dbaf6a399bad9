"""Functions and triggers that lapse adds to an application's table, as texts of SQL: the same input, the same text."""

from __future__ import annotations

from lapse.adoption.names import (
    ENDED_FUNCTION,
    ENDED_TRIGGER,
    INSERT_FUNCTION,
    INSERT_TRIGGER,
    KEY_FUNCTION,
    LAPSE_TRIGGERS,
    TRIGGER_FUNCTIONS,
    UPDATE_FUNCTION,
    UPDATE_TRIGGER,
    Names,
)
from lapse.adoption.row_triggers import APPLICATION, DUPLICATE, drop_routines, row_functions, row_triggers
from lapse.adoption.session_key_sql import session_key_function
from lapse.adoption.updated_at_triggers import (
    full_definition,
    insert_part,
    is_narrowed,
    narrowed,
    restored,
    touches_updated_at,
)

__all__ = [
    "APPLICATION",
    "DUPLICATE",
    "ENDED_FUNCTION",
    "ENDED_TRIGGER",
    "INSERT_FUNCTION",
    "INSERT_TRIGGER",
    "KEY_FUNCTION",
    "LAPSE_TRIGGERS",
    "TRIGGER_FUNCTIONS",
    "UPDATE_FUNCTION",
    "UPDATE_TRIGGER",
    "Names",
    "drop_routines",
    "full_definition",
    "insert_part",
    "is_narrowed",
    "narrowed",
    "restored",
    "row_functions",
    "row_triggers",
    "session_key_function",
    "touches_updated_at",
]
