"""Whether a unique index of the application's own would refuse a row, as a condition inside a trigger."""

from __future__ import annotations

from lapse.adoption.catalog import Index, Table
from lapse.adoption.names import Names, quoted

LAPSE_INDEXES = frozenset({"uq_conversations_open_session", "ix_conversations_open_session"})
"""Unique, but none of the application's."""


def own_unique_indexes(table: Table) -> list[Index]:
    """Return the unique indexes of the application's, the primary key too."""
    return [
        index
        for index in table.indexes.values()
        if index.is_unique and index.is_valid and index.name not in LAPSE_INDEXES
    ]


def is_refused(names: Names, table: Table, *, on_update: bool) -> str:
    """Return the condition that NEW stands against a row in one of the application's unique indexes."""
    conditions = [_stands_against(names, table, index, on_update=on_update) for index in own_unique_indexes(table)]
    return "\n                OR ".join(conditions) or "false"


# NEW has no generated columns yet: what they are made of does in their place.
_EXISTS = """\
EXISTS (
                    SELECT FROM {conversations} AS c WHERE ({keys}) = (
                        SELECT {values}
                        FROM (SELECT NEW.*) AS conversations{concerned}
                    ){others}
                )"""


def _stands_against(names: Names, table: Table, index: Index, *, on_update: bool) -> str:
    pairs = [_key_and_value(table, index, place) for place in range(len(index.columns))]
    others = [index.predicate] if index.predicate else []
    if on_update:
        others.append("c.conv_id <> OLD.conv_id")
    return _EXISTS.format(
        conversations=names.conversations,
        keys=", ".join(key for key, _ in pairs),
        values=", ".join(value for _, value in pairs),
        concerned=f" WHERE {index.predicate}" if index.predicate else "",
        others="".join(f" AND {condition}" for condition in others),
    )


def _key_and_value(table: Table, index: Index, place: int) -> tuple[str, str]:
    """Return what an index compares, of the rows that are there and of NEW.

    What takes functions of the application's own cannot be computed here: they may not be found, or may do anything.
    In their place stand both numbers, in either direction, which is what such a key is commonly made of.
    """
    numbers = "least(from_number, to_number), greatest(from_number, to_number)"
    name = index.columns[place]
    if name is None:
        return (index.keys[place],) * 2 if index.uses_only_built_in else (numbers, numbers)
    column = table.columns[name]
    if not column.is_generated:
        return quoted(name), quoted(name)
    return (quoted(name), column.expression) if column.expression else (numbers, numbers)
