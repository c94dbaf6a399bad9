"""What Citus asks of a statement on tables that are distributed by owner, as rules that name what breaks them.

The refusals are those of Citus' own planner. A statement is judged as SQLAlchemy's tree, before it is text.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.functions import FunctionElement

import lapse.store
from lapse.store.schema import conversation_events, conversations, metadata

OWNER = "owner_id"
DISTRIBUTED = {conversations, conversation_events}
# The server's word: tests/database/test_immutability.py.
IMMUTABLE = {"greatest", "plus_seconds", "is_one_of", "json_text"}
# Columns, and a literal, in lapse's own tables: only those can be distributed.
IMMUTABLE |= {"expiry", "latest_activity", "look_from", "pair_channel", "least_owner"}
AGGREGATES = {"count", "min", "max"}

Rule = Callable[[Any], list[str]]


# --- rules ----------------------------------------------------------------------------------------------------------


def locks_are_on_one_shard(query: Any) -> list[str]:
    """`could not run distributed query with FOR UPDATE/SHARE commands`."""
    if not isinstance(query, sa.Select) or query._for_update_arg is None:
        return []
    return [f"a lock on {source} without {OWNER}" for source in _sources(query) if not _is_of_one_owner(query, source)]


def joins_are_by_owner(query: Any) -> list[str]:
    """`complex joins are only supported when all distributed tables are co-located and joined on their …`."""
    sources = _sources(query)
    if len(sources) < 2 or all(_is_one_row(source) for source in sources):
        return []
    joined, equal = {sources[0]}, [pair for pair in map(_owner_pair, _conditions(query)) if pair]
    for _ in sources:
        joined |= {end for pair in equal if joined & set(pair) for end in pair}
    return [f"{source.name} is not joined by {OWNER}" for source in sources if source not in joined]


def what_is_written_is_immutable(query: Any) -> list[str]:
    """`functions used in the DO UPDATE SET clause … must be marked IMMUTABLE`, and the like of UPDATE and RETURNING."""
    written: list[Any] = list(getattr(query, "_returning", ()))
    if isinstance(query, sa.Update):
        written += [*_values(query).values(), *query._where_criteria]
    if (conflict := _conflict(query)) is not None:
        written += getattr(conflict, "update_values_to_set", {}).values()
        written.append(getattr(conflict, "update_whereclause", None))
    return [f"{name}() is written" for name in sorted(_functions(written) - IMMUTABLE)]


def what_is_selected_to_insert_is_not_volatile(query: Any) -> list[str]:
    """`volatile functions are not allowed in INSERT ... SELECT queries`."""
    if not isinstance(query, sa.Insert) or query.select is None:
        return []
    return [f"{name}() is inserted" for name in sorted(_functions([query.select]) - IMMUTABLE - {"now"})]


def an_update_finds_its_shard_and_leaves_it_there(query: Any) -> list[str]:
    """`modifying the partition value of rows is not allowed`; and no update of lapse is meant for everybody's rows."""
    if not isinstance(query, sa.Update):
        return []
    of_one = len(_sources(query)) > 1 or _is_of_one_owner(query, query.table)
    moved = OWNER in {getattr(column, "key", column) for column in _values(query)}
    return [*([] if of_one else [f"an update without {OWNER}"]), *([f"{OWNER} is set"] if moved else [])]


def an_insert_names_its_owner(query: Any) -> list[str]:
    """`cannot perform an INSERT without a partition column value`; a constant, or an owner from where it selects."""
    if not isinstance(query, sa.Insert) or query.table not in DISTRIBUTED:
        return []
    if query.select is not None:
        selected = dict(zip(query._select_names or [], query.select.exported_columns, strict=True)).get(OWNER)
        return [] if selected is not None and selected.name == OWNER else [f"an insert without {OWNER}"]
    values = {getattr(column, "key", column): value for column, value in _values(query).items()}
    # One without values takes them as parameters: the columns are all of the table's.
    return [] if not values or isinstance(values.get(OWNER), sa.BindParameter) else [f"an insert without {OWNER}"]


def conflicts_are_of_one_shard(query: Any) -> list[str]:
    """A unique index without the owner cannot be on a distributed table, so no insert can mean it."""
    conflict = _conflict(query)
    if conflict is None:
        return []
    names = {getattr(column, "key", column) for column in conflict.inferred_target_elements}
    return [] if OWNER in names else [f"a conflict without {OWNER}"]


RULES: list[Rule] = [
    locks_are_on_one_shard,
    joins_are_by_owner,
    what_is_written_is_immutable,
    what_is_selected_to_insert_is_not_volatile,
    an_update_finds_its_shard_and_leaves_it_there,
    an_insert_names_its_owner,
    conflicts_are_of_one_shard,
]


def broken_by(statement: Any, rule: Rule) -> list[str]:
    """Return how a statement, or a query inside it, breaks a rule."""
    return [problem for query in _queries(statement) for problem in rule(query)]


def broken_by_tables(of: sa.MetaData = metadata) -> list[str]:
    """Return which keys Citus would refuse on a table that is distributed by owner."""
    broken = []
    for table in of.tables.values():
        keys = [list(table.primary_key.columns)]
        keys += [list(index.columns) for index in table.indexes if index.unique]
        keys += [list(key.columns) for key in table.constraints if isinstance(key, sa.UniqueConstraint)]
        broken += [f"a key of {table.name} begins with {key[0].name}" for key in keys if key[0].name != OWNER]
        broken += [
            f"a foreign key of {table.name} without {OWNER}"
            for key in table.foreign_key_constraints
            if (OWNER, OWNER) not in {(element.parent.name, element.column.name) for element in key.elements}
        ]
    return broken


# --- every statement of the store -----------------------------------------------------------------------------------


def statements_of(*objects: Any, distributed: bool = True) -> dict[str, Any]:
    """Return every statement in the store's modules and in these objects, by where it was found.

    What there is by whether the tables are distributed is taken for `distributed`.
    """
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(lapse.store.__path__, "lapse.store."):
        if not module.ispkg:  # the migrations make tables, and hold no statements
            found |= _walk(module.name, vars(importlib.import_module(module.name)), distributed, set())
    for root in objects:
        found |= _walk(type(root).__name__, root, distributed, set())
    return found


def _walk(path: str, thing: Any, distributed: bool, seen: set[int]) -> dict[str, Any]:
    if id(thing) in seen:
        return {}
    if isinstance(thing, sa.Executable) and isinstance(thing, sa.Select | sa.Insert | sa.Update | sa.Delete):
        return {path: thing}
    inside: dict[str, Any] = {}
    if isinstance(thing, dict):
        of_form = set(thing) == {False, True}
        inside = {f"{path}[{key}]": value for key, value in thing.items() if not of_form or key is distributed}
    elif isinstance(thing, list | tuple | set | frozenset):
        inside = {f"{path}[{place}]": value for place, value in enumerate(thing)}
    elif type(thing).__module__.startswith("lapse.store"):
        names = [*getattr(type(thing), "__slots__", ()), *getattr(thing, "__dict__", ())]
        inside = {f"{path}.{name}": getattr(thing, name) for name in names if hasattr(thing, name)}
    found: dict[str, Any] = {}
    for name, value in inside.items():
        found |= _walk(name, value, distributed, seen | {id(thing)})
    return found


# --- inside ---------------------------------------------------------------------------------------------------------


def _queries(statement: Any) -> list[Any]:
    kinds = (sa.Select, sa.Insert, sa.Update, sa.Delete)
    return list({id(part): part for part in visitors.iterate(statement) if isinstance(part, kinds)}.values())


def _sources(query: Any) -> list[Any]:
    """Return the tables, CTEs and subqueries whose rows a query joins."""
    if isinstance(query, sa.Select):
        return [source for part in query.get_final_froms() for source in _unjoined(part)]
    if isinstance(query, sa.Update):
        columns = [part for clause in query._where_criteria for part in visitors.iterate(clause)]
        tables = [
            column.table for column in columns if isinstance(column, sa.ColumnClause) and column.table is not None
        ]
        return list(dict.fromkeys([query.table, *tables]))
    return []


def _unjoined(part: Any) -> list[Any]:
    return [*_unjoined(part.left), *_unjoined(part.right)] if isinstance(part, sa.Join) else [part]


def _conditions(query: Any) -> list[Any]:
    """Return what a query's WHERE and ON demand together."""
    clauses = list(query._where_criteria)
    if isinstance(query, sa.Select):
        parts = [node for part in query.get_final_froms() for node in visitors.iterate(part)]
        clauses += [part.onclause for part in parts if isinstance(part, sa.Join)]
    return [condition for clause in clauses for condition in _anded(clause)]


def _anded(clause: Any) -> Iterator[Any]:
    if isinstance(clause, sa.BooleanClauseList) and clause.operator is operators.and_:
        for part in clause.clauses:
            yield from _anded(part)
    else:
        yield clause


def _owner_pair(condition: Any) -> tuple[Any, Any] | None:
    """Return the two sources whose owners a condition makes equal."""
    if not isinstance(condition, sa.BinaryExpression) or condition.operator is not operators.eq:
        return None
    ends = (condition.left, condition.right)
    if all(isinstance(end, sa.ColumnClause) and end.name == OWNER for end in ends):
        return ends[0].table, ends[1].table
    return None


def _is_of_one_owner(query: Any, source: Any) -> bool:
    for condition in _conditions(query):
        if isinstance(condition, sa.BinaryExpression) and condition.operator is operators.eq:
            ends = (condition.left, condition.right)
            if source.c.get(OWNER) in ends and any(isinstance(end, sa.BindParameter) for end in ends):
                return True
    return False


def _is_one_row(source: Any) -> bool:
    """Tell whether a subquery is an aggregate over a whole table: Citus asks for each on its own."""
    query = getattr(source, "element", None)
    return (
        isinstance(query, sa.Select)
        and not query._group_by_clauses
        and all(_functions([column]) & AGGREGATES for column in query.selected_columns)
    )


def _values(query: Any) -> dict[Any, Any]:
    return dict(query._values or {})


def _conflict(query: Any) -> Any:
    return getattr(query, "_post_values_clause", None)


def _functions(expressions: list[Any]) -> set[str]:
    parts = [part for expression in expressions if expression is not None for part in visitors.iterate(expression)]
    called = {part.name for part in parts if isinstance(part, FunctionElement)}
    # What is written as text may call anything.
    texts = {str(part) for part in parts if isinstance(part, sa.TextClause | sa.ColumnClause)}
    return called | {text.partition("(")[0] for text in texts if "(" in text}
