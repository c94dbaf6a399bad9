"""Check the constraints that lapse relies on: primary keys, and what keeps a row without status or key out."""

from __future__ import annotations

from collections.abc import Iterator

from lapse.adoption.findings import Finding, name_of, trouble
from lapse.adoption.required_columns import primary_key_is
from lapse.adoption.subject import Kind, Subject
from lapse.lifecycle import ConversationStatus

KEY_CONSTRAINT = "ck_conversations_session_key"
STATUS_CHECK = "ck_conversations_status"


def check_primary_keys(subject: Subject) -> Iterator[Finding]:
    """Yield primary keys that are gone, or are others: each transition stands in the events once by theirs."""
    if not subject.is_current:
        return
    wanted = [(subject.events, ["owner_id", "conv_id", subject.physical["version"]])]
    if subject.kind is Kind.OWN:
        wanted.append((subject.table, ["owner_id", "conv_id"]))
    for table, columns in wanted:
        if table and set(columns) <= set(table.columns) and not primary_key_is(table, columns):
            key = ", ".join(columns)
            yield trouble(
                "primary-key",
                f"The primary key of {table.name} is not ({key}).",
                f"ALTER TABLE {name_of(table)} ADD PRIMARY KEY ({key}); (after dropping another primary key)",
            )


def check_row_checks(subject: Subject) -> Iterator[Finding]:
    """Yield the CHECK constraint of lapse's that is gone, or was never validated."""
    table = subject.table
    if not (subject.is_current and table):
        return
    statuses = ", ".join(f"'{status}'" for status in ConversationStatus)
    name, condition, column = {
        Kind.OWN: (STATUS_CHECK, f"status IN ({statuses})", "status"),
        Kind.ADOPTED: (KEY_CONSTRAINT, f"{subject.physical['session_key']} IS NOT NULL", "session key"),
    }[subject.kind]
    constraint = table.constraints.get(name)
    validate = f"ALTER TABLE {name_of(table)} VALIDATE CONSTRAINT {name};"
    if constraint is None:
        yield trouble(
            "missing-constraint",
            f"The constraint {name} is missing: rows without a {column} that lapse knows can come in.",
            f"ALTER TABLE {name_of(table)} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID; {validate}",
        )
    elif not constraint.is_valid:
        yield trouble(
            "missing-constraint",
            f"The constraint {name} is not validated: rows from before it may have no {column} that lapse knows.",
            validate,
        )
