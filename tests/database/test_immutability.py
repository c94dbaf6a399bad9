"""What a sweep writes to distributed tables is IMMUTABLE: PostgreSQL says so, which takes nothing else into an index.

Citus asks the server the same question of each UPDATE (SET, WHERE, CASE, RETURNING) and refuses the statement.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg import ClientCursor, Connection
from psycopg.errors import InvalidObjectDefinition

from lapse import Database
from lapse.store.schema import conversations
from lapse.store.statements import BEGINNING_OF_TIME, BOUND_NOW, Now, server_now
from lapse.store.sweep_statements import Sweep, expired_sweep, idle_sweep
from lapse.store.types import json_text
from tests.support.clock import START
from tests.support.sql import transaction

SWEEPS: dict[str, Callable[[Now], Sweep]] = {
    "expired": expired_sweep,
    "idle": idle_sweep,
    "armed longer": partial(idle_sweep, armed_longer=True),
}
VALUES = {"now": START, "after": BEGINNING_OF_TIME, "idle_timeout": 1800}


def written(sweep: Sweep) -> list[sa.ColumnElement[Any]]:
    """Return the expressions of the update: its conditions, its values, and what it returns."""
    return [sweep.passed, sweep.ends, sweep.deadline, *sweep.values.values()]


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
        for expression in written(SWEEPS[name](BOUND_NOW)):
            index(database, expression)


def test_json_is_returned_as_text_by_what_is_immutable(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        index(database, json_text(conversations.c.metadata))


@pytest.mark.parametrize("name", ["expired", "idle"])
def test_with_the_servers_clock_it_would_not_be(postgres_url: str, name: str) -> None:
    sweep = SWEEPS[name](server_now())
    with closing(Database(postgres_url)) as database:
        for expression in (sweep.passed, next(iter(sweep.values.values()))):
            with pytest.raises(InvalidObjectDefinition, match="must be marked IMMUTABLE"):
                index(database, expression)


def test_adding_an_interval_to_a_time_with_zone_would_not_be(postgres_url: str) -> None:
    added: sa.ColumnElement[Any] = sa.literal_column("updated_at + make_interval(secs => 1800)")
    with (
        closing(Database(postgres_url)) as database,
        pytest.raises(InvalidObjectDefinition, match="must be marked IMMUTABLE"),
    ):
        index(database, added)
