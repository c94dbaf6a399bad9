"""The indexes that lapse needs, and whether an index of that name is the one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import ClauseElement
from sqlalchemy.dialects import postgresql

from lapse.adoption.catalog import Index, Table
from lapse.adoption.findings import name_of
from lapse.store.schema import conv_id_index, conversations
from lapse.store.tolerance import CHANNEL_EXPRESSION

CHANNEL = CHANNEL_EXPRESSION.format(column="channel")
"""What an adopted table's indexes have in place of the channel, which the application may leave out."""

_CAST = re.compile(r"::[a-z ]+(\(\d+\))?(\[\])?")
_STORAGE = re.compile(r" WITH \([^)]*\)| TABLESPACE \S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedIndex:
    """An index as lapse makes it."""

    name: str
    is_unique: bool
    body: str
    """What follows `USING btree`: the columns and the condition."""

    def is_made_by(self, index: Index) -> bool:
        """Tell whether this index is the one, however PostgreSQL spells it."""
        _, _, body = index.definition.partition(" USING btree ")
        return index.is_unique == self.is_unique and _plain(body) == _plain(self.body)

    def statement(self, table: Table) -> str:
        """Return the SQL that makes it, beside other sessions' writes where PostgreSQL can do that."""
        unique = "UNIQUE " if self.is_unique else ""
        beside = "" if table.kind == "p" else "CONCURRENTLY "
        return f"CREATE {unique}INDEX {beside}{self.name} ON {name_of(table)} {self.body};"


def wanted_indexes(physical: Mapping[str, str], *, is_adopted: bool) -> Iterator[WantedIndex]:
    """Yield the indexes of `conversations`.

    Args:
        physical: the names of lapse's columns in the table.
        is_adopted: it is an application's table: its primary key is `conv_id`, and the channel may be NULL.
    """
    names = {**physical, "channel": CHANNEL} if is_adopted else physical
    for index in sorted(conversations.indexes, key=lambda index: index.name or ""):
        if is_adopted and index.name == conv_id_index.name:
            continue
        body = f"({', '.join(names.get(column.name, column.name) for column in index.columns)})"
        condition = index.dialect_options["postgresql"]["where"]
        if condition is not None:
            body += f" WHERE {_sql(condition)}"
        yield WantedIndex(name=str(index.name), is_unique=bool(index.unique), body=body)


def _sql(condition: ClauseElement) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    compiled = condition.compile(dialect=dialect, compile_kwargs={"literal_binds": True, "include_table": False})
    return str(compiled)


def _plain(body: str) -> str:
    """Return the columns and the condition without what PostgreSQL adds, leaves out or writes otherwise."""
    text = _CAST.sub("", _STORAGE.sub("", body)).lower()
    text = re.sub(r"\bnot in\b", "<> all array", text)
    text = re.sub(r"\bin\b", "= any array", text)
    return re.sub(r"""[\s()\[\]"]+""", "", text)
