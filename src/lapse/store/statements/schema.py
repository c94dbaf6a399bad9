"""Statements about the schema: its version, its tables, and how the database keeps them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lapse.store.table_mapping import FILE_QUERY, MAPPING_QUERY, VERSION_TABLE
from lapse.store.tables import Tables


def mapping(_tables: Tables) -> Any:
    """PostgreSQL: select what `table_mapping.mapping_of` reads."""
    names = ("attname", "typname", "attnotnull", "is_adopted", "new_id", "has_citus")
    return sa.text(MAPPING_QUERY).columns(*(sa.column(name) for name in names))


def mapping_of_file(_tables: Tables) -> Any:
    """SQLite: select what `table_mapping.mapping_of_file` reads."""
    return sa.text(FILE_QUERY).columns(sa.column("name", sa.Text), sa.column("type", sa.Text))


def version(_tables: Tables) -> Any:
    """Select the version of the schema.

    Not Alembic's own way: that makes a table anew for each look, and SQLAlchemy keeps what it compiles for it.
    """
    return sa.select(sa.column("version_num", sa.Text)).select_from(sa.table(VERSION_TABLE))


def has_version_table(tables: Tables) -> Any:
    """Select whether there is a table of the schema's version."""
    is_there: sa.ColumnElement[bool]
    if tables.shape.dialect == "sqlite":
        names = tables_of_file(tables).subquery("tables")
        is_there = sa.exists().where(names.c.name == sa.literal(VERSION_TABLE, sa.Text))
    else:
        is_there = sa.func.to_regclass(sa.literal(VERSION_TABLE, sa.Text)).is_not(None)
    return sa.select(is_there.label("is_there"))


def tables_of_file(_tables: Tables) -> Any:
    """SQLite: select the names of the tables."""
    master = sa.table("sqlite_master", sa.column("name", sa.Text), sa.column("type", sa.Text))
    return sa.select(master.c.name).where(master.c.type == sa.literal_column("'table'"))


def lock(_tables: Tables) -> Any:
    """PostgreSQL: let one process at a time change the schema. A session's lock would be lost in a pooler."""
    return sa.select(sa.func.pg_advisory_xact_lock(0x6C61707365))  # "lapse" in ASCII
