"""What Citus asks of a statement on tables that are distributed by owner, as rules that name what breaks them.

The refusals are those of Citus' own planner. A statement is judged as SQLAlchemy's tree, before it is text.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.functions import FunctionElement

from lapse.lifecycle import Sender
from lapse.store import statements
from lapse.store.statements import batches, messages, preview, purge, recording, schema, sweeps
from lapse.store.table_mapping import Shape
from lapse.store.tables import BOUND_NOW, OWN_TABLES, Tables

OWNER = "owner_id"
DISTRIBUTED = tuple(OWN_TABLES.metadata.tables)
IMMUTABLE = {
    "timezone": ("timezone(text, timestamptz)", "timezone(text, timestamp)"),
    "make_interval": ("make_interval(int, int, int, int, int, int, float8)",),
}
"""What may be written, by its name in a statement: functions of PostgreSQL's. No more than lapse's own tables need.

The server's word: tests/database/test_immutability.py.
"""
EXPRESSIONS = {"greatest", "least"}
"""No functions of PostgreSQL's, though SQLAlchemy writes them so: as immutable as what they compare."""
MAY_BE_WRITTEN = {*IMMUTABLE, *EXPRESSIONS}
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
    return [f"{name}() is written" for name in sorted(_functions(written) - MAY_BE_WRITTEN)]


def what_is_selected_to_insert_is_not_volatile(query: Any) -> list[str]:
    """`volatile functions are not allowed in INSERT ... SELECT queries`."""
    if not isinstance(query, sa.Insert) or query.select is None:
        return []
    return [f"{name}() is inserted" for name in sorted(_functions([query.select]) - MAY_BE_WRITTEN - {"now"})]


def an_update_finds_its_shard_and_leaves_it_there(query: Any) -> list[str]:
    """`modifying the partition value of rows is not allowed`; and no update of lapse is meant for everybody's rows."""
    if not isinstance(query, sa.Update):
        return []
    of_one = len(_sources(query)) > 1 or _is_of_one_owner(query, query.table)
    moved = OWNER in {getattr(column, "key", column) for column in _values(query)}
    return [*([] if of_one else [f"an update without {OWNER}"]), *([f"{OWNER} is set"] if moved else [])]


def an_insert_names_its_owner(query: Any) -> list[str]:
    """`cannot perform an INSERT without a partition column value`; a constant, or an owner from where it selects."""
    if not isinstance(query, sa.Insert) or query.table.name not in DISTRIBUTED:
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
    names = {getattr(column, "key", column) for column in conflict.inferred_target_elements or ()}
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


def broken_by_tables(of: sa.MetaData = OWN_TABLES.metadata) -> list[str]:
    """Return which keys Citus would refuse on a table that is distributed by owner."""
    broken = []
    for table in of.tables.values():
        keys = [list(table.primary_key.columns)]
        keys += [list(index.columns) for index in table.indexes if index.unique]
        keys += [list(key.columns) for key in table.constraints if isinstance(key, sa.UniqueConstraint)]
        broken += [f"a key of {table.name} without {OWNER}" for key in keys if OWNER not in {c.name for c in key}]
        broken += [
            f"a foreign key of {table.name} without {OWNER}"
            for key in table.foreign_key_constraints
            if (OWNER, OWNER) not in {(element.parent.name, element.column.name) for element in key.elements}
        ]
    return broken


# --- every statement of the store -----------------------------------------------------------------------------------

OF_SQLITE = {
    recording.add_receipts,
    sweeps.record_batch,
    sweeps.update_batch,
    purge.count_claimed,
    purge.delete_claimed_events,
    purge.delete_claimed,
    schema.tables_of_file,
}
OF_ONE_SERVER = {messages.record_activity, messages.record_activities}
"""What runs on PostgreSQL alone, as does whatever is of many pairs: on Citus a message's statement is of one owner."""


def tables_on(*, is_distributed: bool, has_server_clock: bool = True) -> Tables:
    """Return lapse's own tables on Citus, or on one PostgreSQL."""
    return Tables(Shape(dialect="postgresql", is_distributed=is_distributed, has_server_clock=has_server_clock))


def statements_of(tables: Tables) -> dict[str, Any]:
    """Return every statement that may run on these tables of PostgreSQL's, by its builder and the builder's arguments.

    Whatever a public function of the statements' modules returns, for all arguments that it may get: one that is called
    with something new is an error here, and not left out.
    """
    left_out = OF_SQLITE | (OF_ONE_SERVER if tables.shape.is_distributed else set())
    found: dict[str, Any] = {}
    for builder in _builders():
        if builder in left_out:
            continue
        _, *names = inspect.signature(builder).parameters
        for arguments in itertools.product(*(_ARGUMENTS[name] for name in names)):
            if tables.shape.is_distributed and dict(zip(names, arguments, strict=True)).get("is_single") == _MANY:
                continue
            statement = builder(tables, **{name: value for name, (_, value) in zip(names, arguments, strict=True)})
            if isinstance(statement, sa.Executable) and not isinstance(statement, sa.ColumnElement):
                module = builder.__module__.rpartition(".")[2]
                found[f"{module}.{builder.__name__}({', '.join(called for called, _ in arguments)})"] = statement
    return found


def _builders() -> list[Callable[..., Any]]:
    """Return the functions that other modules may call, among them what statements are made of."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(statements.__path__, "lapse.store.statements.")
    ]
    return [
        function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]


def _named(*values: Any) -> list[tuple[str, Any]]:
    return [(getattr(value, "__name__", str(value)), value) for value in values]


_ONE, _MANY = ("one", True), ("many", False)
_ARGUMENTS: dict[str, list[tuple[str, Any]]] = {
    "now": [("now", BOUND_NOW)],
    "sender": _named(*Sender),
    "is_now_bound": _named(False, True),
    "is_single": [_ONE, _MANY],
    "pairs": _named(batches.batch(OWN_TABLES, batches.PAIRS, is_single=True)),
    "lock": _named("wait", "skip", None),
    "kind": [
        (f"{has_times}, {has_ids}", batches.activities(has_times=has_times, has_ids=has_ids))
        for has_times, has_ids in itertools.product([False, True], repeat=2)
    ],
    "is_among": _named(False, True),
    "is_read_back": _named(False, True),
    "fields": _named(("user_id",), ("context", "metadata")),
    "specify": _named(*(builder for builder in _builders() if builder.__annotations__["return"] == "SweepSpec")),
    "counted": _named(*itertools.starmap(preview.Counted, itertools.product([False, True], repeat=3))),
    "table": _named(*DISTRIBUTED),
    "colocate_with": _named("default"),
}
"""What a builder may be called with, and its name, by the name of the parameter."""


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
    called = {_name(part) for part in parts if isinstance(part, FunctionElement)}
    called |= {"cast" for part in parts if isinstance(part, sa.Cast)}
    # What is written as text may call anything.
    texts = {str(part) for part in parts if isinstance(part, sa.TextClause | sa.ColumnClause)}
    return called | {text.partition("(")[0] for text in texts if "(" in text}


def _name(function: Any) -> str:
    """Return the name of a function; of those that are called `timezone`, only some are IMMUTABLE."""
    if function.name == "timezone":
        zone, *moments = function.clauses
        return function.name if str(zone) == "'UTC'" and len(moments) == 1 else f"{function.name} without 'UTC'"
    return str(function.name)
