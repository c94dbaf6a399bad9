"""The application's triggers that set `updated_at`: updates of lapse's own columns must not count as activity."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lapse.adoption.catalog import Trigger
from lapse.adoption.names import LAPSE_TRIGGERS, Names, quoted

_MAX_NAME_BYTES = 63
_INSERT_PART = "_lapse_insert"
_BOOKKEEPING = ("session_key", "version", "idle_check_at", "idle_timeout_seconds")
_STATES = {"D": "DISABLE TRIGGER", "R": "ENABLE REPLICA TRIGGER", "A": "ENABLE ALWAYS TRIGGER"}

_MENTION = re.compile(r"(?<![\w$])updated_at(?![\w$])", re.IGNORECASE)
_QUOTED = re.compile(r"\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'")
# As `pg_get_triggerdef` prints it, with quoted parts masked: then only keywords are in capitals.
_DEFINITION = re.compile(
    r"CREATE TRIGGER (?P<name>\S+) (?P<time>BEFORE) (?P<events>.+?) ON (?P<table>\S+) "
    r"FOR EACH (?P<each>ROW) (?:WHEN \((?P<condition>.*)\) )?EXECUTE FUNCTION (?P<call>(?P<function>[^(]+)\(.*)",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class _Definition:
    name: str
    events: tuple[str, ...]
    table: str
    condition: str | None
    function: str
    call: str
    """The function with its arguments."""

    def statement(self, name: str, events: tuple[str, ...], condition: str | None) -> str:
        when = f"\n    WHEN ({condition})" if condition else ""
        return (
            f"CREATE OR REPLACE TRIGGER {name} BEFORE {' OR '.join(events)} ON {self.table} FOR EACH ROW{when}\n"
            f"    EXECUTE FUNCTION {self.call}"
        )


def touches_updated_at(trigger: Trigger) -> bool:
    """Tell whether it is an application's trigger that may set `updated_at` when a row is updated."""
    return (
        trigger.is_before
        and trigger.is_for_each_row
        and trigger.on_update
        and trigger.name not in LAPSE_TRIGGERS
        and bool(_MENTION.search(trigger.source) or _MENTION.search(trigger.definition))
    )


def is_restricted(trigger: Trigger, names: Names) -> bool:
    """Tell whether `restrict_statements` was applied to the trigger.

    Raises:
        ValueError: it is no BEFORE ... FOR EACH ROW trigger.
    """
    condition = _parsed(trigger.definition).condition or ""
    columns = [re.escape(names.columns[name]) for name in _BOOKKEEPING]
    return all(re.search(rf"\bnew\.\"?{column}\b", condition, re.IGNORECASE) for column in columns)


def full_definition(trigger: Trigger) -> str:
    """Return the trigger's definition with its function's schema: it means the same in every session.

    Raises:
        ValueError: it is no BEFORE ... FOR EACH ROW trigger.
    """
    parsed = _parsed(trigger.definition)
    return trigger.definition.removesuffix(parsed.call) + trigger.function + parsed.call.removeprefix(parsed.function)


def restrict_statements(trigger: Trigger, names: Names) -> list[str]:
    """Return the statements that restrict a trigger: it no longer fires when lapse updates its own columns.

    Its name, columns, condition, arguments and state are preserved. A trigger that fires on INSERT as well is split in
    two, since the condition refers to OLD.

    Raises:
        ValueError: it is no BEFORE ... FOR EACH ROW trigger.
    """
    old = _parsed(full_definition(trigger))
    columns = [names.column(name) for name in _BOOKKEEPING]
    unchanged = "({})\n        IS NOT DISTINCT FROM ({})".format(
        ", ".join(f"NEW.{column}" for column in columns), ", ".join(f"OLD.{column}" for column in columns)
    )
    condition = f"{unchanged}\n        AND ({old.condition})" if old.condition else unchanged
    on_update = tuple(event for event in old.events if event.startswith("UPDATE"))
    others = tuple(event for event in old.events if event not in on_update)
    statements = []
    if others:
        part = quoted(insert_part(trigger.name))
        statements += [old.statement(part, others, old.condition), *_state(old.table, part, trigger.enabled)]
    return [*statements, old.statement(old.name, on_update, condition), *_state(old.table, old.name, trigger.enabled)]


def restore_statements(definition: str, enabled: str) -> list[str]:
    """Return the statements that restore a trigger which `restrict_statements` has restricted.

    Args:
        definition: the original one, as `full_definition` returned it.
        enabled: its original state: `O`, `A`, `R` or `D`.

    Raises:
        ValueError: the definition is not that of a BEFORE ... FOR EACH ROW trigger.
    """
    old = _parsed(definition)
    statements = [old.statement(old.name, old.events, old.condition), *_state(old.table, old.name, enabled)]
    if len(old.events) > 1:
        part = quoted(insert_part(_unquoted(old.name)))
        statements.append(f"DROP TRIGGER IF EXISTS {part} ON {old.table}")
    return statements


def insert_part(name: str) -> str:
    """Return the name of the trigger that fires on INSERT after this one was split in two."""
    cut = name.encode()[: _MAX_NAME_BYTES - len(_INSERT_PART)].decode(errors="ignore")
    return cut + _INSERT_PART


def _state(table: str, name: str, enabled: str) -> list[str]:
    return [f"ALTER TABLE {table} {_STATES[enabled]} {name}"] if enabled in _STATES else []


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _parsed(definition: str) -> _Definition:
    masked = _QUOTED.sub(lambda match: "x" * len(match[0]), definition)
    parsed = _DEFINITION.fullmatch(masked)
    if parsed is None:
        raise ValueError("not the definition of a BEFORE … FOR EACH ROW trigger")

    def part(group: str) -> str:
        return definition[slice(*parsed.span(group))]

    # Events are separated by ` OR `, which in the masked text cannot be part of a column's name.
    places = [match.span() for match in re.finditer(" OR ", parsed["events"])]
    starts = [0, *(end for _, end in places)]
    ends = [*(start for start, _ in places), len(parsed["events"])]
    events = part("events")
    return _Definition(
        name=part("name"),
        events=tuple(events[start:end] for start, end in zip(starts, ends, strict=True)),
        table=part("table"),
        condition=part("condition") if parsed["condition"] is not None else None,
        function=part("function"),
        call=part("call"),
    )
