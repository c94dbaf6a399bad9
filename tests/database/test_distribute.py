"""`lapse migrate --distribute`, and how distributed tables are noticed: what lapse asks, of a stand-in for Citus."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from lapse import Database
from lapse.errors import DistributionError
from lapse.store.driver_errors import UnsupportedStatementError
from lapse.store.operations import distribution
from lapse.store.statements import Statement, Statements, sweeps
from lapse.store.table_mapping import VERSION_TABLE, Shape
from tests.support.backlog import insert_conversations
from tests.support.citus_stand_in import install_stand_in
from tests.support.commands import error_line, run_here, run_program
from tests.support.concurrency import at_once
from tests.support.sql import run_sql
from tests.support.sweeps import sweep_expired

PLACED = (
    "SELECT logicalrelid::text AS name, partmethod::text, partkey, colocationid FROM pg_dist_partition ORDER BY name"
)


@pytest.fixture
def stand_in_url(empty_postgres_url: str) -> str:
    install_stand_in(empty_postgres_url)
    return empty_postgres_url


@pytest.fixture
def stand_in(postgres_url: str) -> Iterator[Database]:
    """Return a migrated database in which nothing is distributed yet."""
    install_stand_in(postgres_url)
    with closing(Database(postgres_url)) as database:
        yield database


def distribute(database: Database) -> list[str]:
    return database.run(distribution.distribute, database.safe_url)


def is_distributed(database: Database) -> bool:
    return database.shape().is_distributed


def tables(database: Database) -> list[str]:
    return sa.inspect(database.engine).get_table_names()


# --- distributing ---------------------------------------------------------------------------------------------------


def test_migrate_distribute_makes_the_schema_and_spreads_it_by_owner_once(stand_in_url: str) -> None:
    first = run_here("migrate", "--distribute", "--database-url", stand_in_url)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.endswith(
        ": created the schema, version 0005; "
        "distributed conversations, conversation_events and message_receipts by owner\n"
    )
    with closing(Database(stand_in_url)) as database:
        placed = run_sql(database, PLACED)
        assert [tuple(row)[:3] for row in placed] == [
            ("conversation_events", "h", "owner_id"),
            ("conversations", "h", "owner_id"),
            (VERSION_TABLE, "n", None),
            ("message_receipts", "h", "owner_id"),
        ]
        assert len({row.colocationid for row in placed if row.partmethod == "h"}) == 1
        second = run_here("migrate", "--distribute", "--database-url", stand_in_url)
        assert second.stdout.endswith(
            ": nothing to do: the schema is at version 0005; the tables are distributed already\n"
        )
        assert run_sql(database, PLACED) == placed
        assert run_here("migrate", "--database-url", stand_in_url).stdout.endswith(": the schema is at version 0005\n")


def test_processes_that_distribute_at_once_all_succeed(stand_in_url: str) -> None:
    command = [sys.executable, "-m", "lapse", "migrate", "--distribute", "--database-url", stand_in_url]
    results = at_once([partial(run_program, *command) for _ in range(3)])
    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * 3
    assert sorted("distributed conversations, " in result.stdout for result in results) == [False, False, True]


def test_what_was_begun_by_hand_is_completed_beside_it(stand_in: Database) -> None:
    run_sql(stand_in, "SELECT create_distributed_table('conversation_events', 'owner_id', 'hash', 'none')")
    assert distribute(stand_in) == ["conversations", "message_receipts"]
    assert len({row.colocationid for row in run_sql(stand_in, PLACED) if row.partmethod == "h"}) == 1
    assert distribute(stand_in) == []


@pytest.mark.parametrize(
    ("by_hand", "problem"),
    [
        (["create_distributed_table('conversations', 'session_key')"], "otherwise than by owner_id"),
        (["create_reference_table('conversations')"], "otherwise than by owner_id"),
        (
            [f"create_distributed_table('{name}', 'owner_id')" for name in ("conversations", "conversation_events")],
            "not colocated",
        ),
    ],
)
def test_tables_that_are_distributed_otherwise_are_an_error(
    stand_in: Database, by_hand: list[str], problem: str
) -> None:
    for call in by_hand:
        run_sql(stand_in, f"SELECT {call}")
    placed = run_sql(stand_in, PLACED)
    with pytest.raises(DistributionError, match=rf"{problem}.*nothing was changed.*undistribute_table"):
        distribute(stand_in)
    assert run_sql(stand_in, PLACED) == placed


def test_a_worker_node_is_refused_before_anything_is_done(stand_in_url: str) -> None:
    with closing(Database(stand_in_url)) as database:
        run_sql(database, "UPDATE pg_dist_local_group SET groupid = 3")
        before = tables(database)
        refused = run_here("migrate", "--distribute", "--database-url", stand_in_url)
        assert "worker node of Citus, nothing was changed: connect to the coordinator" in error_line(refused, 1)
        assert tables(database) == before


def test_a_database_without_citus_is_left_as_it_is(empty_postgres_url: str) -> None:
    refused = run_here("migrate", "--distribute", "--database-url", empty_postgres_url)
    line = error_line(refused, 1)
    assert "has no Citus, nothing was changed: run CREATE EXTENSION citus" in line
    assert ":***@" in line
    with closing(Database(empty_postgres_url)) as database:
        assert tables(database) == []


def test_sqlite_cannot_be_distributed(tmp_path: Any) -> None:
    refused = run_here("migrate", "--distribute", "--database-url", "sqlite:///lapse.db")
    assert error_line(refused, 1) == "SQLite keeps all rows in one file: --distribute needs PostgreSQL with Citus"
    assert list(tmp_path.iterdir()) == []


def test_checking_changes_nothing(stand_in: Database) -> None:
    stand_in.run(distribution.check, stand_in.safe_url)
    assert run_sql(stand_in, PLACED) == []


# --- noticing -------------------------------------------------------------------------------------------------------


def test_tables_of_one_server_are_not_distributed(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        assert is_distributed(database) is False


def test_what_is_distributed_is_noticed_once_and_when_looked_at_again(stand_in: Database) -> None:
    assert is_distributed(stand_in) is False
    distribute(stand_in)
    assert is_distributed(stand_in) is False, "asked once"
    stand_in.invalidate()
    assert is_distributed(stand_in) is True
    assert is_distributed(stand_in) is True


def test_a_reference_table_is_not_on_several_shards(stand_in: Database) -> None:
    run_sql(stand_in, "SELECT create_reference_table('conversations')")
    assert is_distributed(stand_in) is False


# PostgreSQL refuses this one with the SQLSTATE that Citus has for a lock over several shards.
REFUSED = sa.text("SELECT count(*) AS claimed FROM conversations FOR NO KEY UPDATE").columns(sa.column("claimed"))


def test_a_worker_goes_on_when_the_tables_are_distributed_under_it(stand_in: Database) -> None:
    insert_conversations(stand_in, range(3), expires_in=-timedelta(days=1))
    assert sweep_expired(stand_in, 1).ended == 1
    distribute(stand_in)
    refuse_locks(stand_in)
    assert sweep_expired(stand_in, 10).ended == 2


def test_a_refusal_that_has_another_reason_is_an_error_and_no_endless_loop(stand_in: Database) -> None:
    refuse_locks(stand_in)
    with pytest.raises(UnsupportedStatementError, match="FOR NO KEY UPDATE is not allowed with aggregate functions"):
        sweep_expired(stand_in, 10)


def refuse_locks(database: Database) -> None:
    """Let the sweep of one server be refused, as Citus would do it: of this database alone."""
    refused = Statements(database.default_statements.shape)
    refused._compiled[(sweeps.sweep_batch, sweeps.expired, False)] = Statement(REFUSED, database.engine.dialect)
    build = database.build

    def build_refused(shape: Shape | None) -> Statements:
        if shape == refused.shape:
            database.statements = refused
            return refused
        return build(shape)

    database.build = build_refused  # type: ignore[method-assign]
    if database.statements is database.default_statements:
        database.statements = refused
