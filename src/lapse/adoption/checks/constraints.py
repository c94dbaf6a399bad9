"""Check the constraints that lapse relies on: primary keys, and the CHECK on the status or the session key."""

from __future__ import annotations

from collections.abc import Iterator

from lapse.adoption.findings import Finding, error, name_of
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.required_columns import primary_key_is
from lapse.lifecycle import ConversationStatus

KEY_CONSTRAINT = "ck_conversations_session_key"
STATUS_CHECK = "ck_conversations_status"


def check_primary_keys(inspection: Inspection) -> Iterator[Finding]:
    """Yield missing or different primary keys: that of the events guarantees one event per transition."""
    if not inspection.is_current:
        return
    wanted = [
        (inspection.events, ["owner_id", "conv_id", inspection.column_names["version"]]),
        (inspection.receipts, ["owner_id", "channel", "message_id"]),
    ]
    if inspection.kind is Kind.OWN:
        wanted.append((inspection.table, ["owner_id", "conv_id"]))
    for table, columns in wanted:
        if table and set(columns) <= set(table.columns) and not primary_key_is(table, columns):
            key = ", ".join(columns)
            yield error(
                "primary-key",
                f"The primary key of {table.name} is not ({key}).",
                f"ALTER TABLE {name_of(table)} ADD PRIMARY KEY ({key}); (after dropping any other primary key)",
            )


def check_row_checks(inspection: Inspection) -> Iterator[Finding]:
    """Yield lapse's CHECK constraint if it is missing, or not validated."""
    table = inspection.table
    if not (inspection.is_current and table):
        return
    statuses = ", ".join(f"'{status}'" for status in ConversationStatus)
    name, condition, column = {
        Kind.OWN: (STATUS_CHECK, f"status IN ({statuses})", "status"),
        Kind.ADOPTED: (KEY_CONSTRAINT, f"{inspection.column_names['session_key']} IS NOT NULL", "session key"),
    }[inspection.kind]
    constraint = table.constraints.get(name)
    validate = f"ALTER TABLE {name_of(table)} VALIDATE CONSTRAINT {name};"
    if constraint is None:
        yield error(
            "missing-constraint",
            f"The constraint {name} is missing: rows without a valid {column} can be inserted.",
            f"ALTER TABLE {name_of(table)} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID; {validate}",
        )
    elif not constraint.is_valid:
        yield error(
            "missing-constraint",
            f"The constraint {name} is not validated: existing rows may have no valid {column}.",
            validate,
        )
