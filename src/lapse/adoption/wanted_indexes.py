"""The indexes that lapse needs, and the comparison with an existing index of the same name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import ClauseElement
from sqlalchemy.dialects import postgresql

from lapse.adoption.catalog import Index, Table
from lapse.adoption.findings import name_of
from lapse.store.tables import CHANNEL_EXPRESSION, OWN_TABLES

CHANNEL = CHANNEL_EXPRESSION.format(column="channel")
"""The expression that an adopted table's indexes use for the channel, which may be NULL there."""

_CAST = re.compile(r"::[a-z ]+(\(\d+\))?(\[\])?")
_STORAGE = re.compile(r" WITH \([^)]*\)| TABLESPACE \S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedIndex:
    """An index as lapse defines it."""

    name: str
    is_unique: bool
    body: str
    """The text after `USING btree`: the columns and the predicate."""

    def matches(self, index: Index) -> bool:
        """Tell whether an existing index has this definition, however PostgreSQL spells it."""
        _, _, body = index.definition.partition(" USING btree ")
        return index.is_unique == self.is_unique and _normalized(body) == _normalized(self.body)

    def statement(self, table: Table) -> str:
        """Return the statement that creates it, CONCURRENTLY where PostgreSQL supports that."""
        unique = "UNIQUE " if self.is_unique else ""
        concurrently = "" if table.kind == "p" else "CONCURRENTLY "
        return f"CREATE {unique}INDEX {concurrently}{self.name} ON {name_of(table)} {self.body};"


def wanted_indexes(column_names: Mapping[str, str], *, is_adopted: bool) -> Iterator[WantedIndex]:
    """Yield the indexes of `conversations` that lapse needs.

    Args:
        column_names: lapse's columns, and their names in the table.
        is_adopted: the table is an application's, and its channel may be NULL.
    """
    names = {**column_names, "channel": CHANNEL} if is_adopted else column_names
    for index in sorted(OWN_TABLES.conversations.indexes, key=lambda index: index.name or ""):
        body = f"({', '.join(names.get(column.name, column.name) for column in index.columns)})"
        condition = index.dialect_options["postgresql"]["where"]
        if condition is not None:
            body += f" WHERE {_sql(condition)}"
        yield WantedIndex(name=str(index.name), is_unique=bool(index.unique), body=body)


def _sql(condition: ClauseElement) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    compiled = condition.compile(dialect=dialect, compile_kwargs={"literal_binds": True, "include_table": False})
    return str(compiled)


def _normalized(body: str) -> str:
    """Return the columns and the predicate in a form that does not depend on PostgreSQL's formatting."""
    text = _CAST.sub("", _STORAGE.sub("", body)).lower()
    text = re.sub(r"\bnot in\b", "<> all array", text)
    text = re.sub(r"\bin\b", "= any array", text)
    return re.sub(r"""[\s()\[\]"]+""", "", text)
