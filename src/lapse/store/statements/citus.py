"""What lapse asks of Citus, which spreads a table's rows over the nodes of a cluster: its catalog and its functions.

The rows of one owner are together on one shard. What concerns one owner works as on one server; over several shards
there are no row locks, and what is written there may only call functions that are IMMUTABLE.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lapse.store.tables import Tables

DISTRIBUTION_COLUMN = "owner_id"

# Citus has them in `pg_catalog`; they are there when the extension is.
_partition = sa.table(
    "pg_dist_partition", *(sa.column(name) for name in ("logicalrelid", "partmethod", "partkey", "colocationid"))
)
_local_group = sa.table("pg_dist_local_group", sa.column("groupid"))
# Literals: a parameter would be a text, and these are an internal one-byte type and an enum.
_BY_HASH: sa.ColumnElement[Any] = sa.literal_column("'h'")
_HASH: sa.ColumnElement[Any] = sa.literal_column("'hash'")


def is_installed(_tables: Tables) -> Any:
    """Select whether the database has Citus."""
    return sa.select(sa.func.to_regclass(_partition.name).is_not(None).label("is_installed"))


def is_coordinator(_tables: Tables) -> Any:
    """Select whether this node is the coordinator."""
    return sa.select((_local_group.c.groupid == 0).label("is_coordinator"))


def distribution(_tables: Tables) -> Any:
    """Select how Citus keeps a table: no row where it is one of this server alone."""
    return sa.select(
        (_partition.c.partmethod == _BY_HASH).label("is_by_hash"),
        sa.func.column_to_column_name(_partition.c.logicalrelid, _partition.c.partkey).label("column"),
        _partition.c.colocationid.label("colocation"),
    ).where(_partition.c.logicalrelid == sa.func.to_regclass(sa.bindparam("table", type_=sa.Text)))


def create_distributed_table(_tables: Tables, table: str, colocate_with: str) -> Any:
    """Spread a table's rows by owner, on the nodes where the rows of `colocate_with` are (`default`: Citus chooses)."""
    return sa.select(sa.func.create_distributed_table(table, DISTRIBUTION_COLUMN, _HASH, colocate_with))


def create_reference_table(_tables: Tables, table: str) -> Any:
    """Keep a copy of a table on every node."""
    return sa.select(sa.func.create_reference_table(table))
