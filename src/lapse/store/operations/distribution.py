"""Distributing the tables by owner on a Citus cluster; any number of processes may try at once."""

from __future__ import annotations

from lapse.errors import DistributionError
from lapse.store.operations.steps import Query, Steps, Transaction
from lapse.store.statements import Row, Statements, citus, schema
from lapse.store.table_mapping import VERSION_TABLE


def check(sql: Statements, database: str) -> Steps[None]:
    """Check that the tables, present or future, can be distributed by owner; nothing is changed.

    Raises:
        DistributionError: it is none of Citus, not its coordinator, or has tables that are distributed otherwise.
    """
    if sql.shape.dialect != "postgresql":
        raise DistributionError("SQLite keeps all rows in one file: --distribute needs PostgreSQL with Citus")
    if sql.shape.mapping.is_adopted:
        raise DistributionError(
            "an adopted table has unique keys without owner_id, by which lapse distributes: nothing was changed"
        )
    yield from _read_distribution(sql, database)


def distribute(sql: Statements, database: str) -> Steps[list[str]]:
    """Distribute the tables of a migrated database in one transaction; return which, none where all were already.

    Writes to them wait until it is done. The schema's version becomes a reference table, so that lapse finds it from
    every node. Colocated: the shards that hold an owner's rows of each table are on one node.

    Raises:
        DistributionError: as `check`.
    """

    def work() -> Steps[list[str]]:
        yield Query(sql(schema.lock))
        done = list((yield from _read_distribution(sql, database)))
        missing = [table for table in sql.tables.metadata.tables if table not in done]
        for table in missing:
            yield Query(sql(citus.create_distributed_table, table, done[0] if done else "default"))
            done.append(table)
        if not (yield Query(sql(citus.distribution), {"table": VERSION_TABLE})):
            yield Query(sql(citus.create_reference_table, VERSION_TABLE))
        return missing

    yield from check(sql, database)
    distributed: list[str] = yield Transaction(work)
    return distributed


def _read_distribution(sql: Statements, database: str) -> Steps[dict[str, Row]]:
    """Return how each table is distributed that is."""
    if not (yield Query(sql(citus.is_installed))).one().is_installed:
        raise DistributionError(
            f"{database} has no Citus, nothing was changed: run CREATE EXTENSION citus in this database, on the "
            "coordinator and on every worker node, and try again"
        )
    if not (yield Query(sql(citus.is_coordinator))).one().is_coordinator:
        raise DistributionError(
            f"{database} is a worker node of Citus, nothing was changed: connect to the coordinator"
        )
    distributed: dict[str, Row] = {}
    for table in sql.tables.metadata.tables:
        if rows := (yield Query(sql(citus.distribution), {"table": table})):
            distributed[table] = rows[0]
    for table, row in distributed.items():
        if not row.is_by_hash or row.column != citus.DISTRIBUTION_COLUMN:
            raise DistributionError(
                f"{table} is distributed otherwise than by {citus.DISTRIBUTION_COLUMN}, nothing was changed: run "
                f"SELECT undistribute_table('{table}') and try again"
            )
    if len({row.colocation for row in distributed.values()}) > 1:
        raise DistributionError(
            f"{' and '.join(distributed)} are distributed, but not colocated, nothing was changed: run "
            f"SELECT undistribute_table('{list(sql.tables.metadata.tables)[-1]}') and try again"
        )
    return distributed
