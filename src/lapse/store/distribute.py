"""Spreading the tables over the nodes of a Citus cluster by owner, once, however many processes try."""

from __future__ import annotations

from lapse.errors import DistributionError
from lapse.store import citus
from lapse.store.connection import Connection, Row
from lapse.store.database import Database
from lapse.store.layout import VERSION_TABLE
from lapse.store.migrate import LOCK_SCHEMA
from lapse.store.schema import metadata

TABLES = tuple(metadata.tables)
"""Colocated: the shards that hold an owner's rows of each are on one node."""


def check_distributable(database: Database, *, retry: bool = True) -> None:
    """Let a database pass whose tables, present or future, can be distributed by owner; nothing is changed.

    Raises:
        DistributionError: it is none of Citus, not its coordinator, or has tables that are distributed otherwise.
        DatabaseError: the database refused, or cannot be reached.
    """
    if database.dialect != "postgresql":
        raise DistributionError("SQLite keeps all rows in one file: --distribute needs PostgreSQL with Citus")
    if database.layout().is_adopted:
        raise DistributionError(
            "an adopted table has unique keys without owner_id, by which lapse distributes: nothing was changed"
        )
    database.transaction(lambda connection: _check(database, connection), retry=retry)


def distribute(database: Database) -> list[str]:
    """Distribute the tables of a migrated database in one transaction; return which, none where all were already.

    Writes to them wait until it is done. The schema's version becomes a reference table, so that lapse finds it from
    every node.

    Raises:
        DistributionError: as `check_distributable`.
        DatabaseError: the database refused, or cannot be reached.
    """
    check_distributable(database)

    def work(connection: Connection) -> list[str]:
        connection.execute(LOCK_SCHEMA)
        done = list(_check(database, connection))
        missing = [table for table in TABLES if table not in done]
        for table in missing:
            connection.execute(citus.create_distributed_table(table, colocate_with=done[0] if done else "default"))
            done.append(table)
        if _distribution(connection, VERSION_TABLE) is None:
            connection.execute(citus.create_reference_table(VERSION_TABLE))
        return missing

    return database.transaction(work)


def _check(database: Database, connection: Connection) -> dict[str, Row]:
    """Return how each table is distributed that is."""
    if not connection.execute(citus.IS_INSTALLED).one().is_installed:
        raise DistributionError(
            f"{database.safe_url} has no Citus, nothing was changed: run CREATE EXTENSION citus in this database, on "
            "the coordinator and on every worker node, and try again"
        )
    if not connection.execute(citus.IS_COORDINATOR).one().is_coordinator:
        raise DistributionError(
            f"{database.safe_url} is a worker node of Citus, nothing was changed: connect to the coordinator"
        )
    found = {table: row for table in TABLES if (row := _distribution(connection, table))}
    for table, row in found.items():
        if not row.is_by_hash or row.column != citus.DISTRIBUTION_COLUMN:
            raise DistributionError(
                f"{table} is distributed otherwise than by {citus.DISTRIBUTION_COLUMN}, nothing was changed: run "
                f"SELECT undistribute_table('{table}') and try again"
            )
    if len({row.colocation for row in found.values()}) > 1:
        raise DistributionError(
            f"{' and '.join(found)} are distributed, but not colocated, nothing was changed: run "
            f"SELECT undistribute_table('{TABLES[-1]}') and try again"
        )
    return found


def _distribution(connection: Connection, table: str) -> Row | None:
    return connection.execute(citus.DISTRIBUTION, {"table": table}).one_or_none()
