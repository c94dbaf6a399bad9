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


# NEW has no generated columns yet: what they are made of does in their place. Each value is compared by the operator of
# the index, which is found wherever it is: a type of an extension has its own.
_EXISTS = """\
EXISTS (
                    SELECT FROM (SELECT {values} FROM (SELECT NEW.*) AS conversations{concerned}) AS lapse_new,
                        {conversations} AS c
                    WHERE {conditions}
                )"""


def _stands_against(names: Names, table: Table, index: Index, *, on_update: bool) -> str:
    triples = [triple for place in range(len(index.columns)) for triple in _compared(table, index, place)]
    conditions = [f"{key} {equals} lapse_new.lapse_{place}" for place, (key, equals, _) in enumerate(triples)]
    if " NULLS NOT DISTINCT" in index.definition:
        conditions = [
            f"({condition} OR {key} IS NULL AND lapse_new.lapse_{place} IS NULL)"
            for place, (condition, (key, _, _)) in enumerate(zip(conditions, triples, strict=True))
        ]
    conditions += [index.predicate] if index.predicate else []
    if on_update:
        conditions.append("c.conv_id <> OLD.conv_id")
    return _EXISTS.format(
        conversations=names.conversations,
        values=", ".join(f"{value} AS lapse_{place}" for place, (_, _, value) in enumerate(triples)),
        concerned=f" WHERE {index.predicate}" if index.predicate else "",
        conditions=" AND ".join(conditions),
    )


def _compared(table: Table, index: Index, place: int) -> list[tuple[str, str, str]]:
    """Return what an index compares, of the rows that are there and of NEW, and by which operator.

    What takes functions of the application's own cannot be computed here: they may not be found, or may do anything.
    In their place stand both numbers, in either direction, which is what such a key is commonly made of.
    """
    both = ("least(from_number, to_number)", "greatest(from_number, to_number)")
    numbers = [(number, "=", number) for number in both]
    name, equals = index.columns[place], index.equals[place].replace("OPERATOR(pg_catalog.=)", "=")
    if name is None:
        return [(index.keys[place], equals, index.keys[place])] if index.uses_only_built_in else numbers
    column = table.columns[name]
    if not column.is_generated:
        return [(quoted(name), equals, quoted(name))]
    return [(quoted(name), equals, column.expression)] if column.expression else numbers
