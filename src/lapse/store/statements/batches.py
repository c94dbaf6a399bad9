"""Rows of values as parameters of a statement: of one row as plain parameters, of many as one relation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lapse.models import Conversation, ConversationEvent
from lapse.store.engines import json_text
from lapse.store.tables import Tables
from lapse.store.types import JsonColumn, UtcDateTime, array_text, json_value

_NUMBER, _MOMENT = sa.Integer(), UtcDateTime()


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One kind of rows: the table whose columns of these names give the types, and the types of the others."""

    name: str
    columns: tuple[str, ...]
    table: str = "conversations"
    others: Mapping[str, Any] = field(default_factory=dict)

    def row_of(self, value: object, **others: Any) -> tuple[Any, ...]:
        """Return a row with the fields of a value by the names of the columns, unless they are among the others."""
        if others:
            return tuple(others[name] if name in others else getattr(value, name) for name in self.columns)
        row: tuple[Any, ...] = _fields_of(self)(value)
        return row


@cache
def _fields_of(kind: Kind) -> Callable[[object], Any]:
    return attrgetter(*kind.columns)


_PAIR = ("n", "owner_id", "channel", "session_key")
PAIRS = Kind("pairs", _PAIR, others={"n": _NUMBER})
INBOUND, OUTBOUND, ANSWER = 1, 2, 4
"""Sides of a pair that wrote, summed up: the customer; an agent, support or a bot; one of those that answer."""
_TIMES = ("latest_at", "earliest_at", "inbound_at", "outbound_at", "answered_at")


@cache
def activities(*, has_times: bool, has_ids: bool) -> Kind:
    """Return the rows that say of each pair what its messages mean together.

    Args:
        has_times: some were sent earlier; otherwise all are of now.
        has_ids: some have ids; a pair with an id has a single message.
    """
    columns = (*_PAIR, "sides", *(_TIMES if has_times else ()), *(("message_id",) if has_ids else ()))
    types = {"n": _NUMBER, "sides": _NUMBER, "message_id": sa.Text(), **dict.fromkeys(_TIMES, _MOMENT)}
    return Kind("activities", columns, others=types)


RECEIPTS = Kind("receipts", ("owner_id", "channel", "message_id", "conv_id"), "receipts")
KEYS = Kind("keys", ("owner_id", "conv_id"))
STATES = Kind(
    "states",
    (
        "owner_id",
        "conv_id",
        "from_version",
        "status",
        "version",
        "updated_at",
        "last_inbound_at",
        "last_outbound_at",
        "first_answered_at",
        "ended_at",
        "idle_check_at",
        "idle_timeout_seconds",
    ),
    others={"from_version": sa.BigInteger()},
)
NEW_CONVERSATIONS = Kind("new", tuple(column.name for column in fields(Conversation)))
EVENTS = Kind("events", tuple(column.name for column in fields(ConversationEvent)), "events")


class Batch:
    """Rows of one kind. Of many rows PostgreSQL takes each column as an array, SQLite all as one JSON text."""

    def __init__(self, tables: Tables, kind: Kind, *, is_single: bool) -> None:
        """Name the parameters.

        Args:
            tables: of the database.
            kind: of the rows.
            is_single: there is always exactly one row.
        """
        table = getattr(tables, kind.table)
        self.names = kind.columns
        self._types = {
            name: kind.others.get(name) if name in kind.others else table.c[name].type for name in self.names
        }
        self._json_places = [place for place, type_ in enumerate(self._types.values()) if isinstance(type_, JsonColumn)]
        self._prefix, self._is_single, self._is_sqlite = kind.name, is_single, tables.shape.dialect == "sqlite"
        self.relation: Any = None
        """To select from; None: of a single row, whose values are parameters."""
        if is_single:
            binds = {name: sa.bindparam(f"{kind.name}_{name}", type_=type_) for name, type_ in self._types.items()}
            self.c: Any = SimpleNamespace(**binds)
            return
        self.relation = self._rows_of_json() if self._is_sqlite else self._unnested()
        columns = {name: self._read(self.relation.c[name], type_) for name, type_ in self._types.items()}
        self.c = SimpleNamespace(**columns)

    def _read(self, column: Any, type_: Any) -> Any:
        return sa.cast(column, postgresql.JSONB) if isinstance(type_, JsonColumn) and not self._is_sqlite else column

    def values(self, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Return the parameters of the statement for these rows; each has a value for each column."""
        if self._is_single:
            (row,) = rows
            return dict(zip((f"{self._prefix}_{column}" for column in self._types), row, strict=True))
        if self._is_sqlite:
            return {self._prefix: _json_of_rows(rows, self._json_places)}
        columns = list(map(list, zip(*rows, strict=True))) or [[] for _ in self._types]
        for place in self._json_places:
            columns[place] = [json_text(value) for value in columns[place]]
        names = (f"{self._prefix}_{column}" for column in self._types)
        return {name: array_text(column) for name, column in zip(names, columns, strict=True)}

    def _unnested(self) -> Any:
        arrays = [
            sa.cast(sa.bindparam(f"{self._prefix}_{name}", type_=sa.types.NULLTYPE), postgresql.ARRAY(_listed(type_)))
            for name, type_ in self._types.items()
        ]
        rows = sa.func.unnest(*arrays).table_valued(
            *(sa.column(name, _listed(type_)) for name, type_ in self._types.items())
        )
        return rows.render_derived(name=self._prefix)

    def _rows_of_json(self) -> Any:
        each = sa.func.json_each(sa.bindparam(self._prefix, type_=sa.Text)).table_valued("key", "value")
        columns = [
            sa.type_coerce(
                sa.func.json_extract(each.c.value, sa.literal_column(f"'$[{place}]'")), _listed(type_)
            ).label(name)
            for place, (name, type_) in enumerate(self._types.items())
        ]
        return sa.select(*columns).select_from(each).subquery(self._prefix)


def _json_of_rows(rows: Sequence[Sequence[Any]], json_places: Sequence[int]) -> str:
    if not json_places:
        return _encode(rows)
    lists = list(map(list, rows))
    for row in lists:
        for place in json_places:
            row[place] = json_text(row[place])
    return _encode(lists)


# Nothing here holds itself, and a look for that is a fifth of the time.
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"), default=json_value).encode


def _listed(type_: Any) -> Any:
    return sa.Text() if isinstance(type_, JsonColumn) else type_


@lru_cache(1_024)
def batch(tables: Tables, kind: Kind, *, is_single: bool) -> Batch:
    """Return the rows of a kind, as the statements on these tables take them."""
    return Batch(tables, kind, is_single=is_single)
