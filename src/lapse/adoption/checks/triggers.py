"""Check the triggers: those that take lapse's own bookkeeping for activity, and lapse's own on an adopted table."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lapse.adoption.catalog import Trigger
from lapse.adoption.findings import Finding, name_of, note, trouble
from lapse.adoption.names import INSERT_TRIGGER, LAPSE_TRIGGERS, UPDATE_TRIGGER
from lapse.adoption.subject import Kind, Subject
from lapse.adoption.updated_at_triggers import is_narrowed, narrowed, touches_updated_at

_BOOKKEEPING = ("version", "session_key", "idle_check_at", "idle_timeout_seconds")
_SETS_ACTIVITY_AFTERWARDS = re.compile(r"\bupdate\s.*\bconversations\b.*\bupdated_at\b", re.IGNORECASE | re.DOTALL)


def check_activity_triggers(subject: Subject) -> Iterator[Finding]:
    """Yield triggers that touch `updated_at`, and fire when lapse only looks."""
    table = subject.table
    if table is None or subject.kind is Kind.OTHER:
        return
    for trigger in table.triggers.values():
        if trigger.name in LAPSE_TRIGGERS or not (trigger.fires and trigger.on_update and trigger.is_for_each_row):
            continue
        if touches_updated_at(trigger):
            if _counts_bookkeeping(trigger, subject):
                yield _activity_trigger(trigger, subject)
        elif not trigger.is_before and _SETS_ACTIVITY_AFTERWARDS.search(trigger.source):
            yield note(
                "activity-trigger-after",
                f"The trigger {trigger.name} mentions updated_at after an update: if it sets it, lapse's own "
                "bookkeeping counts as activity, and such conversations never become idle.",
                f"Look at it: \\sf {trigger.function}",
            )


def check_own_triggers(subject: Subject) -> Iterator[Finding]:
    """Yield triggers of lapse's that an adopted table has lost, or that are switched off."""
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
            always = "ALWAYS " if name in (INSERT_TRIGGER, UPDATE_TRIGGER) else ""
            yield trouble(
                "trigger-off",
                f"lapse's trigger {name} is switched off: what the application writes is not kept in order.",
                f"ALTER TABLE {name_of(subject.table)} ENABLE {always}TRIGGER {name};",
            )


def _counts_bookkeeping(trigger: Trigger, subject: Subject) -> bool:
    """Tell whether lapse's bookkeeping fires it: it does not where it is narrowed, or for other columns."""
    if columns := re.search(r" UPDATE OF (.+?) (?:OR|ON) ", trigger.definition):
        written = [subject.physical[name] for name in _BOOKKEEPING]
        return any(re.search(rf"\b{name}\b", columns[1]) for name in (*written, "status"))
    return not is_narrowed(trigger, subject.names)


def _activity_trigger(trigger: Trigger, subject: Subject) -> Finding:
    what = f"The trigger {trigger.name} sets updated_at on every update"
    if subject.kind in (Kind.ADOPTABLE, Kind.ADOPTING):
        return note(
            "activity-trigger",
            f"{what}, the worker's look at a conversation included, which would then never become idle.",
            "`lapse adopt` narrows it: it stays, but does not fire for lapse's own bookkeeping.",
        )
    return trouble(
        "activity-trigger",
        f"{what}: lapse's own bookkeeping counts as activity, and such conversations never become idle.",
        f"Narrow it: {'; '.join(narrowed(trigger, subject.names))};",
    )
