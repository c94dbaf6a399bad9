"""What a sweep writes to distributed tables is IMMUTABLE, as Citus asks it: an index takes nothing else."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg import ClientCursor, Connection
from psycopg.errors import InvalidObjectDefinition

from lapse import Database
from lapse.models import MIN_DATETIME
from lapse.store.statements.sweeps import SILENT_BEFORE, Specify, SweepSpec, armed_longer, expired, idle
from lapse.store.tables import BOUND_NOW
from lapse.store.types import JsonObject
from tests.support.citus_rules import EXPRESSIONS, IMMUTABLE, tables_on
from tests.support.clock import START
from tests.support.sql import run_sql, transaction

TABLES = tables_on(is_distributed=True)
SWEEPS: dict[str, Specify] = {"expired": expired, "idle": idle, "armed longer": armed_longer}
VALUES = {"now": START, "after": MIN_DATETIME, "idle_timeout": 1800, "silent_before": START}


def written(spec: SweepSpec) -> list[sa.ColumnElement[Any]]:
    """Return the expressions of the update: its conditions, its values, and what it returns."""
    return [spec.due, spec.makes_transition, spec.deadline, spec.deadline < SILENT_BEFORE, *spec.values.values()]


def index(database: Database, expression: sa.ColumnElement[Any]) -> None:
    compiled = expression.compile(database.engine)
    with transaction(database) as connection, ClientCursor(_driver(connection)) as cursor:
        literal = cursor.mogrify(str(compiled), {**compiled.params, **VALUES})
        cursor.execute(f"CREATE INDEX ON conversations (({literal}))".encode())


def _driver(connection: sa.Connection) -> Connection[Any]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, Connection)
    return driver


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_writes_nothing_that_is_not_immutable(postgres_url: str, name: str) -> None:
    with closing(Database(postgres_url)) as database:
        for expression in written(SWEEPS[name](TABLES, BOUND_NOW)):
            index(database, expression)


def test_every_function_that_may_be_written_is_immutable(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        for signature in (signature for several in IMMUTABLE.values() for signature in several):
            found = run_sql(database, f"SELECT provolatile FROM pg_proc WHERE oid = '{signature}'::regprocedure")
            assert found == [("i",)], signature


def test_what_is_called_no_function_is_none(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        for name in EXPRESSIONS:
            assert run_sql(database, f"SELECT 1 FROM pg_proc WHERE proname = '{name}'") == []
            index(database, getattr(sa.func, name)(TABLES.c.updated_at, BOUND_NOW))


def test_json_is_returned_as_text_by_what_is_immutable(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        index(database, JsonObject.column_expression(TABLES.c.metadata))


@pytest.mark.parametrize("name", ["expired", "idle"])
def test_with_the_servers_clock_it_would_not_be(postgres_url: str, name: str) -> None:
    spec = SWEEPS[name](TABLES, TABLES.now)
    with closing(Database(postgres_url)) as database:
        for expression in (spec.due, next(iter(spec.values.values()))):
            with pytest.raises(InvalidObjectDefinition, match="must be marked IMMUTABLE"):
                index(database, expression)


def test_adding_an_interval_to_a_time_with_zone_would_not_be(postgres_url: str) -> None:
    added: sa.ColumnElement[Any] = sa.literal_column("updated_at + make_interval(secs => 1800)")
    with (
        closing(Database(postgres_url)) as database,
        pytest.raises(InvalidObjectDefinition, match="must be marked IMMUTABLE"),
    ):
        index(database, added)
