"""Check the triggers: those that set `updated_at` for lapse's own updates, and lapse's own on an adopted table."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lapse.adoption.catalog import Trigger
from lapse.adoption.findings import Finding, error, name_of, warning
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.names import INSERT_TRIGGER, LAPSE_TRIGGERS, UPDATE_TRIGGER
from lapse.adoption.updated_at_triggers import is_restricted, restrict_statements, touches_updated_at

_BOOKKEEPING = ("version", "session_key", "idle_check_at", "idle_timeout_seconds")
_SETS_ACTIVITY_AFTERWARDS = re.compile(r"\bupdate\s.*\bconversations\b.*\bupdated_at\b", re.IGNORECASE | re.DOTALL)


def check_activity_triggers(inspection: Inspection) -> Iterator[Finding]:
    """Yield triggers that set `updated_at` when lapse updates its own columns."""
    table = inspection.table
    if table is None or inspection.kind is Kind.OTHER:
        return
    for trigger in table.triggers.values():
        if trigger.name in LAPSE_TRIGGERS or not (trigger.fires and trigger.on_update and trigger.is_for_each_row):
            continue
        if touches_updated_at(trigger):
            if _counts_bookkeeping(trigger, inspection):
                yield _activity_trigger(trigger, inspection)
        elif not trigger.is_before and _SETS_ACTIVITY_AFTERWARDS.search(trigger.source):
            yield warning(
                "activity-trigger-after",
                f"The trigger {trigger.name} refers to updated_at after an update: if it sets it, lapse's own "
                "updates count as activity, and such conversations never become idle.",
                f"Check its source: \\sf {trigger.function}",
            )


def check_own_triggers(inspection: Inspection) -> Iterator[Finding]:
    """Yield lapse's triggers that are missing from an adopted table, or disabled."""
    if inspection.kind is not Kind.ADOPTED or inspection.table is None:
        return
    for name in LAPSE_TRIGGERS:
        trigger = inspection.table.triggers.get(name)
        if trigger is None:
            yield error(
                "missing-trigger",
                f"lapse's trigger {name} is missing: the application's writes break lapse's rules.",
                "`lapse adopt` recreates it.",
            )
        elif not trigger.fires:
            always = "ALWAYS " if name in (INSERT_TRIGGER, UPDATE_TRIGGER) else ""
            yield error(
                "trigger-off",
                f"lapse's trigger {name} is disabled: the application's writes break lapse's rules.",
                f"ALTER TABLE {name_of(inspection.table)} ENABLE {always}TRIGGER {name};",
            )


def _counts_bookkeeping(trigger: Trigger, inspection: Inspection) -> bool:
    """Tell whether lapse's own updates fire it: not where it is restricted, or for other columns."""
    if columns := re.search(r" UPDATE OF (.+?) (?:OR|ON) ", trigger.definition):
        written = [inspection.column_names[name] for name in _BOOKKEEPING]
        return any(re.search(rf"\b{name}\b", columns[1]) for name in (*written, "status"))
    return not is_restricted(trigger, inspection.names)


def _activity_trigger(trigger: Trigger, inspection: Inspection) -> Finding:
    message = f"The trigger {trigger.name} sets updated_at on every update"
    if inspection.kind in (Kind.ADOPTABLE, Kind.ADOPTING):
        return warning(
            "activity-trigger",
            f"{message}, including the worker's own: a conversation would never become idle.",
            "`lapse adopt` restricts it: it no longer fires for lapse's own updates.",
        )
    return error(
        "activity-trigger",
        f"{message}: lapse's own updates count as activity, and such conversations never become idle.",
        f"Restrict it: {'; '.join(restrict_statements(trigger, inspection.names))};",
    )
