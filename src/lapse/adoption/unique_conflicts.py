"""The condition, inside a trigger, that a row conflicts with a unique index of the application's own."""

from __future__ import annotations

from lapse.adoption.catalog import Index, Table
from lapse.adoption.names import Names, quoted

LAPSE_INDEXES = frozenset({"uq_conversations_open_session", "ix_conversations_open_session"})
"""Unique, but lapse's own."""


def application_unique_indexes(table: Table) -> list[Index]:
    """Return the valid unique indexes of the application, the primary key included."""
    return [
        index
        for index in table.indexes.values()
        if index.is_unique and index.is_valid and index.name not in LAPSE_INDEXES
    ]


def conflict_condition(names: Names, table: Table, *, on_update: bool) -> str:
    """Return the condition that NEW conflicts with an existing row in one of the application's unique indexes.

    Args:
        names: of the table and its columns.
        table: as the catalog describes it.
        on_update: the trigger fires on UPDATE: the row's own old version is no conflict.
    """
    indexes = application_unique_indexes(table)
    conditions = [_index_conflict_condition(names, table, index, on_update=on_update) for index in indexes]
    return "\n                OR ".join(conditions) or "false"


# NEW has no generated columns yet: their expressions stand in for them. Each value is compared by the operator of the
# index, spelled with its schema: the type of an extension has its own.
_EXISTS = """\
EXISTS (
                    SELECT FROM (SELECT {values} FROM (SELECT NEW.*) AS conversations{concerned}) AS lapse_new,
                        {conversations} AS c
                    WHERE {conditions}
                )"""


def _index_conflict_condition(names: Names, table: Table, index: Index, *, on_update: bool) -> str:
    triples = [triple for place in range(len(index.columns)) for triple in _compared_values(table, index, place)]
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


def _compared_values(table: Table, index: Index, place: int) -> list[tuple[str, str, str]]:
    """Return what an index compares: the expression of existing rows, the operator, and the expression of NEW.

    Functions of the application cannot be called here: they may not resolve, or may have side effects. In their place
    stand both numbers, in either direction, of which such a key is commonly composed.
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
