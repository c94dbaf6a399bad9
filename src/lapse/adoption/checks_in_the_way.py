"""Check that nothing stands where adoption would put something of lapse's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from lapse.adoption.catalog import read_table
from lapse.adoption.findings import Finding, name_of, trouble
from lapse.adoption.names import EVENTS, quoted
from lapse.adoption.subject import Kind, Subject
from lapse.store.layout import ADOPTION_TABLE, PREFIX
from lapse.store.schema_version import VERSION_TABLE


def check_way(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield other tables and columns of the names that lapse's have, and a cluster, which lapse does not adopt."""
    if subject.kind is not Kind.ADOPTABLE or subject.table is None:
        return
    if subject.is_distributed:
        yield trouble(
            "distributed",
            "The table conversations is distributed by Citus: lapse adopts tables of a single server.",
            "SELECT undistribute_table('conversations');",
        )
    for name in (EVENTS, ADOPTION_TABLE, VERSION_TABLE):
        if (table := read_table(connection, name)) is not None:
            yield trouble(
                "in-the-way",
                f"There is another table {name} already.",
                f"ALTER TABLE {name_of(table)} RENAME TO old_{name};",
            )
    for name in (name for name in subject.table.columns if name.startswith(PREFIX)):
        yield trouble(
            "in-the-way",
            f"conversations has a column {name} already, a name that lapse keeps for its own.",
            f"ALTER TABLE {name_of(subject.table)} RENAME COLUMN {quoted(name)} TO {quoted(f'old_{name}')};",
        )
