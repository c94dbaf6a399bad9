"""`/readyz` asks the database again and again: it is not taken in by a cut connection, and leaves nothing behind."""

from __future__ import annotations

import atexit
from contextlib import closing

from lapse import Database
from lapse.http import WorkerApp
from tests.http_client import ask
from tests.sql import run_sql
from tests.workers import worker_on


def test_a_connection_that_was_cut_between_two_probes_is_no_database_that_is_away(postgres_url: str) -> None:
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid != "
    with worker_on(postgres_url) as worker, closing(Database(postgres_url)) as database:
        app = WorkerApp(worker)
        for _ in range(3):
            assert ask(app, "/readyz") == (200, "ready: the database answers and has the right schema\n")
            run_sql(database, cut + "pg_backend_pid()")


def test_a_probe_leaves_nothing_in_memory(database_url: str) -> None:
    with worker_on(database_url) as worker:
        app, engine = WorkerApp(worker), worker.conversation_service.database.engine

        def kept() -> tuple[int, int]:
            assert ask(app, "/readyz")[0] == 200
            return atexit._ncallbacks(), len(engine._compiled_cache or ())

        kept()
        before = kept()
        assert [kept() for _ in range(5)] == [before] * 5
