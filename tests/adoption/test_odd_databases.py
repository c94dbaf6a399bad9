"""What few databases have: a schema of an odd name, storage parameters in their order, and a limit to transactions."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from lapse import Database
from lapse.adoption.adopt import Adoption
from lapse.adoption.revert import Revert
from lapse.errors import AdoptionError
from tests.adoption.adoption_helpers import RecordingReporter, adopt
from tests.adoption.legacy_table import GUARDED, connect, create_legacy_table, fill

OPTIONS = "SELECT reloptions FROM pg_class WHERE oid = 'conversations'::regclass"


def unadopt(url: str, file: Path) -> None:
    with closing(Database(url)) as database:
        database.autocommit(
            lambda store: Revert(adoption=Adoption(store=store, idle_timeout_seconds=1_800), file=file).run(
                RecordingReporter()
            ),
            retry=False,
        )


def use_schema(url: str, schema: str) -> None:
    with connect(url) as owner:
        owner.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        database = sql.Identifier(make_url(url).database or "")
        owner.execute(sql.SQL("ALTER DATABASE {} SET search_path = {}").format(database, sql.Identifier(schema)))


def test_a_schema_may_have_any_name(empty_postgres_url: str, tmp_path: Path) -> None:
    use_schema(empty_postgres_url, 'My "50%" {of} Bob\'s %s')
    with connect(empty_postgres_url) as owner:
        create_legacy_table(owner, GUARDED)
        fill(owner, 20, GUARDED)
        adopt(empty_postgres_url)
        assert owner.execute("SELECT count(*) FROM conversation_events").fetchall() == [(1,)]
        unadopt(empty_postgres_url, tmp_path / "events.csv")
        assert owner.execute("SELECT to_regclass('conversation_events')").fetchall() == [(None,)]


def test_a_schema_that_would_end_the_text_of_a_function_is_refused(empty_postgres_url: str) -> None:
    use_schema(empty_postgres_url, "a$lapse$; DROP TABLE conversations; --")
    with connect(empty_postgres_url) as owner:
        create_legacy_table(owner)
        with pytest.raises(AdoptionError, match="nothing was changed"):
            adopt(empty_postgres_url)
        assert owner.execute("SELECT to_regclass('lapse_adoption')").fetchall() == [(None,)]


@pytest.mark.parametrize("options", [["fillfactor=70", "autovacuum_enabled=off"], ["autovacuum_enabled=off"], None])
def test_storage_parameters_come_back_in_their_order(
    empty_postgres_url: str, tmp_path: Path, options: list[str] | None
) -> None:
    with connect(empty_postgres_url) as owner:
        create_legacy_table(owner)
        if options:
            owner.execute(f"ALTER TABLE conversations SET ({', '.join(options)})".encode())
        adopt(empty_postgres_url)
        unadopt(empty_postgres_url, tmp_path / "events.csv")
        assert owner.execute(OPTIONS).fetchall() == [(options,)]


def test_a_limit_to_transactions_does_not_cut_the_making_of_an_index(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as owner, connect(empty_postgres_url) as reader:
        create_legacy_table(owner)
        database = sql.Identifier(make_url(empty_postgres_url).database or "")
        try:
            owner.execute(sql.SQL("ALTER DATABASE {} SET transaction_timeout = '200ms'").format(database))
        except psycopg.errors.UndefinedObject:
            return  # before PostgreSQL 17 there is no such limit
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")  # an index is made once all snapshots are gone
        end = threading.Timer(0.7, reader.execute, ["COMMIT"])
        end.start()
        adopt(empty_postgres_url)
        end.join()
