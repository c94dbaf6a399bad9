"""Check the triggers: those that take lapse's own bookkeeping for activity, and lapse's own on an adopted table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from lapse.adoption.catalog import Trigger
from lapse.adoption.findings import Finding, name_of, note, quoted, trouble
from lapse.adoption.subject import Kind, Subject

LAPSE_TRIGGERS = ("aa_lapse_ended", "zz_lapse_insert", "zz_lapse_update")
_BOOKKEEPING = ("version", "session_key", "idle_check_at", "idle_timeout_seconds")
_SETS_ACTIVITY_AFTERWARDS = re.compile(r"\bupdate\s.*\bconversations\b.*\bupdated_at\b", re.IGNORECASE | re.DOTALL)


def check_activity_triggers(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield triggers that touch `updated_at`, and fire when lapse only looks."""
    del connection
    table = subject.table
    if table is None or subject.kind is Kind.OTHER:
        return
    for trigger in table.triggers.values():
        if trigger.name in LAPSE_TRIGGERS or not (trigger.fires and trigger.on_update and trigger.is_for_each_row):
            continue
        if not trigger.is_before:
            if _SETS_ACTIVITY_AFTERWARDS.search(trigger.source):
                yield note(
                    "activity-trigger-after",
                    f"The trigger {trigger.name} mentions updated_at after an update: if it sets it, lapse's own "
                    "bookkeeping counts as activity, and such conversations never become idle.",
                    f"Look at it: \\sf {trigger.function}",
                )
        elif _touches_activity(trigger) and not _is_narrowed(trigger, subject):
            yield _activity_trigger(trigger, subject, name_of(table))


def check_own_triggers(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield triggers of lapse's that an adopted table has lost, or that are switched off."""
    del connection
    if subject.kind is not Kind.ADOPTED or subject.table is None:
        return
    for name in LAPSE_TRIGGERS:
        trigger = subject.table.triggers.get(name)
        if trigger is None:
            yield trouble(
                "missing-trigger",
                f"lapse's trigger {name} is missing: what the application writes is not kept in order.",
                "`lapse adopt` makes it again.",
            )
        elif not trigger.fires:
            yield trouble(
                "trigger-off",
                f"lapse's trigger {name} is switched off: what the application writes is not kept in order.",
                f"ALTER TABLE {name_of(subject.table)} ENABLE TRIGGER {name};",
            )


def _touches_activity(trigger: Trigger) -> bool:
    return "updated_at" in trigger.source or "updated_at" in trigger.definition


def _is_narrowed(trigger: Trigger, subject: Subject) -> bool:
    """Tell whether lapse's bookkeeping does not fire it: by its WHEN condition, or by the columns that it is for."""
    bookkeeping = [re.compile(rf"\b{subject.physical[name]}\b") for name in _BOOKKEEPING]
    if columns := re.search(r" UPDATE OF (.+?) (?:OR|ON) ", trigger.definition):
        return not any(name.search(columns[1]) for name in (*bookkeeping, re.compile(r"\bstatus\b")))
    _, _, condition = trigger.definition.partition(" WHEN ")
    return all(name.search(condition) for name in bookkeeping)


def _activity_trigger(trigger: Trigger, subject: Subject, table: str) -> Finding:
    what = f"The trigger {trigger.name} sets updated_at on every update"
    if subject.kind in (Kind.ADOPTABLE, Kind.ADOPTING):
        return note(
            "activity-trigger",
            f"{what}, the worker's look at a conversation included, which would then never become idle.",
            "`lapse adopt` narrows it: it stays, but does not fire for lapse's own bookkeeping.",
        )
    what += ": lapse's own bookkeeping counts as activity, and such conversations never become idle."
    if subject.kind is Kind.ADOPTED:
        return trouble("activity-trigger", what, "`lapse adopt` narrows it.")
    return trouble("activity-trigger", what, f"DROP TRIGGER {quoted(trigger.name)} ON {table}; (lapse sets updated_at)")
