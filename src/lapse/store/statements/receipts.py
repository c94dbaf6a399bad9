"""Statements of the receipts' retention: a walk through the table, piece by piece, which needs no index."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lapse.store.tables import BOUND_NOW, Tables, constant

FIRST: sa.BindParameter[int] = sa.bindparam("first", type_=sa.BigInteger)
SIZE: sa.BindParameter[int] = sa.bindparam("size", type_=sa.BigInteger)
SECONDS: sa.BindParameter[int] = sa.bindparam("seconds", type_=sa.BigInteger)


def extent(tables: Tables) -> Any:
    """Select the number of pieces that the table has: of pages on PostgreSQL, of row numbers on SQLite."""
    if tables.shape.dialect == "sqlite":
        last = sa.func.coalesce(sa.func.max(constant("rowid")), constant("0")) + constant("1")
        return sa.select(last.label("pieces")).select_from(tables.receipts)
    name = constant(f"'{tables.receipts.name}'")
    size = sa.func.pg_relation_size(sa.func.to_regclass(name))
    pages = size / sa.cast(sa.func.current_setting(constant("'block_size'")), sa.BigInteger)
    return sa.select(pages.label("pieces"))


def delete_piece(tables: Tables) -> Any:
    """Delete what is older than so many `seconds` of `size` pieces from `first` on; returns the number."""
    receipts = tables.receipts
    if tables.shape.dialect == "sqlite":
        rowid: sa.ColumnElement[Any] = constant("rowid")
        is_in_piece = (rowid >= FIRST) & (rowid < FIRST + SIZE)
    else:
        place: sa.ColumnElement[Any] = constant(f"{receipts.name}.ctid")
        is_in_piece = (place >= _page(FIRST)) & (place < _page(FIRST + SIZE))
    return _counted(tables, sa.delete(receipts).where(is_in_piece, _is_old(tables)))


def delete_all(tables: Tables) -> Any:
    """Citus, whose rows have no place that one statement can name: delete all that is older; returns the number."""
    return _counted(tables, sa.delete(tables.receipts).where(_is_old(tables)))


def _is_old(tables: Tables) -> sa.ColumnElement[bool]:
    now = BOUND_NOW if tables.shape.is_distributed else tables.now
    return tables.receipts.c.seen_at < tables.plus_seconds(now, -SECONDS)


def _page(number: Any) -> sa.ColumnElement[Any]:
    text = constant("'('").op("||")(sa.cast(number, sa.Text)).op("||")(constant("',0)'"))
    return sa.type_coerce(sa.cast(text, _Tid()), sa.types.NULLTYPE)


class _Tid(sa.types.UserDefinedType[Any]):
    """PostgreSQL's place of a row."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return its name."""
        return "tid"


def _counted(tables: Tables, delete: sa.Delete) -> Any:
    """Return the number of rows alone: of the rows themselves nobody needs anything."""
    if tables.shape.dialect == "sqlite":  # which has no writing CTEs
        return delete.returning(constant("1").label("deleted"))
    deleted = delete.returning(constant("1").label("deleted")).cte("deleted")
    return sa.select(sa.func.count().label("deleted")).select_from(deleted)
