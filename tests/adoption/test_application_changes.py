"""The application's own indexes and columns, odd ones and changed ones: what it could write before, it can write."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.adoption.adoption_helpers import adopt
from tests.adoption.legacy_table import GUARDED, PLAIN, Form, connect, create_legacy_table, fill
from tests.support.waiting import until

STATUSES = "SELECT array_agg(status ORDER BY conv_id) FROM conversations"


def insert(application: psycopg.Connection[Any], rest: str = "", columns: str = "", values: str = "") -> int:
    return application.execute(
        f"""INSERT INTO conversations (owner_id, from_number, to_number, status{columns})
        VALUES (1, '+14155238886', '+5511999999999', 'pending'{values}) {rest}""".encode()
    ).rowcount


@pytest.mark.parametrize("change", ["DROP COLUMN session_key", "RENAME COLUMN session_key TO pair_key"])
def test_the_columns_of_a_unique_index_may_be_dropped_or_renamed(empty_postgres_url: str, change: str) -> None:
    with connect(empty_postgres_url) as application:
        create_legacy_table(application, GUARDED)
        adopt(empty_postgres_url)
        assert insert(application) == 1
        application.execute("UPDATE conversations SET status = 'idle_timeout'")
        application.execute(f"ALTER TABLE conversations {change}".encode())
        assert insert(application) == 1
        assert application.execute(STATUSES).fetchall() == [(["expired", "pending"],)]


@pytest.mark.parametrize(
    ("kind", "value"), [("ltree", "'a.b'::ltree"), ("citext", "'a'::citext"), ("hstore", "'a=>1'::hstore")]
)
def test_a_type_of_an_extension_is_compared_by_its_own_operator(empty_postgres_url: str, kind: str, value: str) -> None:
    with connect(empty_postgres_url) as application:
        create_legacy_table(application, PLAIN)
        try:
            application.execute(f"CREATE EXTENSION {kind}".encode())
        except psycopg.errors.FeatureNotSupported:
            pytest.skip(f"this server has no extension {kind}")
        application.execute(f"ALTER TABLE conversations ADD place {kind} UNIQUE".encode())
        adopt(empty_postgres_url)
        assert insert(application, columns=", place", values=f", {value}") == 1
        # Refused as ever, and nothing ends for it.
        assert insert(application, "ON CONFLICT (place) DO NOTHING", ", place", f", {value}") == 0
        assert application.execute(STATUSES).fetchall() == [(["pending"],)]
        assert insert(application) == 1
        assert application.execute(STATUSES).fetchall() == [(["expired", "pending"],)]


def test_a_unique_index_that_takes_nulls_for_equal_refuses_as_ever(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as application:
        create_legacy_table(application, PLAIN)
        application.execute(
            """CREATE UNIQUE INDEX one_of_user ON conversations (owner_id, user_id) NULLS NOT DISTINCT
            WHERE status = 'pending'"""
        )
        adopt(empty_postgres_url)
        assert insert(application) == 1
        assert insert(application, "ON CONFLICT DO NOTHING") == 0
        assert application.execute(STATUSES).fetchall() == [(["pending"],)]


@pytest.mark.parametrize("form", [PLAIN, GUARDED], ids=str)
def test_a_copy_into_a_small_table_looks_for_each_pair_by_indexes(empty_postgres_url: str, form: Form) -> None:
    with connect(empty_postgres_url) as application:
        create_legacy_table(application, form)
        fill(application, 20, form)
        adopt(empty_postgres_url)
    with connect(empty_postgres_url) as application, application.transaction():
        with application.cursor().copy("COPY conversations (owner_id, from_number, to_number) FROM STDIN") as copy:
            for place in range(300):
                copy.write_row((1, f"+5511{900_000_000 + place}", "+14155238886"))
        scans = application.execute(
            "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'conversations'"
        ).fetchall()
    assert scans == [(0,)]


UPSERT = """ON CONFLICT (owner_id, session_key) WHERE status IN ('pending', 'progress')
    DO UPDATE SET updated_at = now()"""


def test_an_upsert_that_waits_for_a_worker_opens_the_next_conversation(empty_postgres_url: str) -> None:
    with (
        connect(empty_postgres_url) as application,
        connect(empty_postgres_url) as worker,
        ThreadPoolExecutor() as pool,
    ):
        create_legacy_table(application, GUARDED)
        adopt(empty_postgres_url)
        insert(application)
        worker.execute("BEGIN")
        worker.execute("UPDATE conversations SET status = 'idle_timeout'")
        upsert = pool.submit(insert, application, UPSERT)
        until(lambda: is_waiting(worker, application.info.backend_pid))
        worker.execute("COMMIT")
        assert upsert.result(timeout=10) == 1
        assert application.execute(STATUSES).fetchall() == [(["expired", "pending"],)]


def is_waiting(connection: psycopg.Connection[Any], pid: int) -> bool:
    return connection.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [pid]).fetchall() == [(True,)]
