"""Migrations that meet each other in one process, and one that is killed half way."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

import sqlalchemy as sa

from lapse import Database, migrate
from lapse.store import check_schema
from lapse.store.operations.schema import head_version
from tests.support.commands import run_program
from tests.support.concurrency import at_once

ROUNDS = 3
THREADS = 4

# The table of receipts is the last thing that the migration makes.
MIGRATE_AND_DIE = """
import os, signal, sys
import sqlalchemy as sa
from lapse import Database, migrate

database = Database(sys.argv[1])

@sa.event.listens_for(database.engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if "CREATE TABLE message_receipts" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

migrate(database)
"""


def test_of_threads_that_migrate_at_once_one_creates_the_schema(new_database: Callable[..., str], backend: str) -> None:
    for _ in range(ROUNDS):
        url = new_database(backend, migrated=False)
        with ExitStack() as stack:
            databases = [stack.enter_context(closing(Database(url))) for _ in range(THREADS)]
            results = at_once([partial(migrate, database) for database in databases])
        assert {result.after for result in results} == {head_version()}
        assert [result.before for result in results].count(None) == 1


def test_threads_that_migrate_several_databases_each_migrate_their_own(
    new_database: Callable[..., str], backend: str
) -> None:
    for _ in range(ROUNDS):
        with ExitStack() as stack:
            urls = [new_database(backend, migrated=False) for _ in range(THREADS)]
            databases = [stack.enter_context(closing(Database(url))) for url in urls]
            results = at_once([partial(migrate, database) for database in databases])
            for database in databases:
                check_schema(database)
        assert [result.changed for result in results] == [True] * THREADS


def test_a_migration_that_is_killed_leaves_nothing_behind(empty_database_url: str) -> None:
    killed = run_program(sys.executable, "-c", MIGRATE_AND_DIE, empty_database_url)
    assert killed.returncode == -signal.SIGKILL, killed
    with closing(Database(empty_database_url)) as database:
        assert sa.inspect(database.engine).get_table_names() == []
        assert migrate(database).before is None
        check_schema(database)
