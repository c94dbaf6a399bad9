"""Adopting, step by step: rows, locks, duplicates that come late, and what somebody takes off again."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from lapse.addresses import session_key
from lapse.adoption import lookout
from lapse.adoption.doctor import examine
from lapse.adoption.plan import DUPLICATES, FUNCTIONS, PREPARE, UNIQUE, VACUUM, VALIDATE, Step
from lapse.errors import AdoptionError
from lapse.stopping import StopFlag
from lapse.store import Database
from tests.adoption.adopting import Silent, adopt
from tests.adoption.old_table import GUARDED, PLAIN, Form, connect, create_old_table, fill
from tests.waiting import until

ROWS = 400
ENDED = 39
"""Of the 80 open ones of these the first and the last have no other one of their pair."""
REPEATED = (DUPLICATES, VACUUM)
"""Steps of which nothing remembers that they are done, until a later one is."""
FAULTS = (
    "DROP TRIGGER zz_lapse_insert ON conversations",
    "ALTER TABLE conversations DISABLE TRIGGER zz_lapse_update",
    "ALTER TABLE conversations DROP COLUMN last_inbound_at",
    "DROP INDEX ix_conversations_session_history_not_open",
    "DROP INDEX uq_conversations_open_session",
    "ALTER TABLE conversations DROP CONSTRAINT ck_conversations_session_key",
    "DROP TABLE lapse_schema_version",
    "CREATE OR REPLACE FUNCTION lapse_before_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER again BEFORE INSERT OR UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION set_updated_at()",
    "ALTER TABLE conversations DROP COLUMN session_key CASCADE",
)
OWNS_VERSION = Form(extra_columns=("version integer DEFAULT 1",))


@pytest.fixture
def filled(empty_postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the old table, with some years in it."""
    with connect(empty_postgres_url) as connection:
        create_old_table(connection)
        fill(connection, ROWS)
        yield connection


def values(connection: psycopg.Connection[Any], query: str, *parameters: Any) -> list[Any]:
    """Return the rows of a query, or the values where it has one column."""
    rows = connection.execute(query.encode(), parameters or None).fetchall()
    return [row[0] if len(row) == 1 else row for row in rows]


def troubles(url: str) -> list[str]:
    database = Database(url)
    try:
        return [found.code for found in examine(database).findings if found.level == "trouble"]
    finally:
        database.close()


# --- rows ---------------------------------------------------------------------------------------------------------


def test_rows_get_their_key_and_next_look_and_nothing_else_of_them_changes(
    filled: psycopg.Connection[Any], empty_postgres_url: str
) -> None:
    columns = "conv_id, owner_id, from_number, to_number, channel, started_at, updated_at, expires_at, context::text"
    before = values(filled, f"SELECT {columns} FROM conversations ORDER BY conv_id")
    adopt(empty_postgres_url, idle_timeout_seconds=600)
    assert values(filled, f"SELECT {columns} FROM conversations ORDER BY conv_id") == before
    # The newest say that they were updated in the future: a wrong clock must not keep them for ever.
    wait = "CASE WHEN updated_at < now() - interval '1 hour' THEN extract(epoch FROM idle_check_at - updated_at) END"
    for from_number, to_number, key, seconds in values(
        filled, f"SELECT from_number, to_number, session_key, {wait} FROM conversations"
    ):
        assert key == session_key(from_number, to_number)
        assert seconds in (None, 600)
    assert values(filled, "SELECT count(*) FROM conversations WHERE idle_check_at > now() + interval '600 s'") == [0]
    assert values(filled, "SELECT DISTINCT idle_timeout_seconds FROM conversations") == [600]


@pytest.mark.parametrize("keep", ["newest", "oldest"])
def test_of_a_pair_one_stays_and_the_events_say_which(
    filled: psycopg.Connection[Any], empty_postgres_url: str, keep: str
) -> None:
    opened = "status IN ('pending', 'progress', 'idle_timeout')"
    last = "max" if keep == "newest" else "min"
    expected = values(
        filled,
        f"SELECT {last}(conv_id) FROM conversations WHERE {opened} "
        "GROUP BY owner_id, replace(from_number, 'whatsapp:', '') ORDER BY 1",
    )
    number = values(filled, f"SELECT count(*) FROM conversations WHERE {opened}")[0]
    adopt(empty_postgres_url, keep=keep)
    assert values(filled, f"SELECT conv_id FROM conversations WHERE {opened} ORDER BY 1") == expected
    ended = values(filled, "SELECT (data ->> 'kept')::bigint, conv_id FROM conversation_events WHERE actor = 'adopt'")
    assert len(ended) == number - len(expected)
    assert all(kept in expected and (kept > conv_id) == (keep == "newest") for kept, conv_id in ended)


def test_times_that_no_calendar_holds_are_no_obstacle(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_old_table(connection)
        connection.execute(
            """INSERT INTO conversations (owner_id, from_number, to_number, started_at, updated_at, expires_at)
            SELECT 1, '+5511987654321', '+14155238886', moment, moment, moment
            FROM unnest('{infinity,-infinity,0044-03-15 BC}'::timestamptz[]) AS moment"""
        )
        adopt(empty_postgres_url)
        assert values(connection, "SELECT started_at::text FROM conversations WHERE status = 'pending'") == ["infinity"]


def test_a_table_without_the_columns_that_may_miss_gets_them(empty_postgres_url: str) -> None:
    optional = ("user_id", "ended_at", "expires_at", "channel", "context", "metadata")
    with connect(empty_postgres_url) as connection:
        create_old_table(connection, bare := Form(messages=False))
        fill(connection, ROWS, bare)
        connection.execute("".join(f"ALTER TABLE conversations DROP COLUMN {name};" for name in optional).encode())
        adopt(empty_postgres_url)
        assert troubles(empty_postgres_url) == []
        found = values(connection, "SELECT attname FROM pg_attribute WHERE attrelid = 'conversations'::regclass")
        assert set(optional) <= set(found)
        assert values(connection, "SELECT count(*) FROM conversation_events") == [ENDED]


def test_a_trigger_that_takes_the_backfill_for_activity_stops_it(
    filled: psycopg.Connection[Any], empty_postgres_url: str
) -> None:
    filled.execute(
        """CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RETURN jsonb_populate_record(NEW, jsonb_build_object(''upd'' || ''ated_at'', now())); END';
        CREATE TRIGGER stamp BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION stamp()"""
    )
    before = values(filled, "SELECT conv_id, updated_at FROM conversations ORDER BY 1")
    with pytest.raises(AdoptionError, match="still changes updated_at"):
        adopt(empty_postgres_url)
    assert values(filled, "SELECT conv_id, updated_at FROM conversations ORDER BY 1") == before
    filled.execute("DROP TRIGGER stamp ON conversations")
    adopt(empty_postgres_url)
    assert values(filled, "SELECT conv_id, updated_at FROM conversations ORDER BY 1") == before


# --- locks --------------------------------------------------------------------------------------------------------


@contextmanager
def in_background(url: str) -> Iterator[Silent]:
    """Adopt meanwhile, and wait for the end afterwards; where the test has failed, end it."""
    watcher, stop_flag = Silent(), StopFlag()
    with ThreadPoolExecutor(1) as executor:
        adopting = executor.submit(adopt, url, watcher=watcher, stop_flag=stop_flag)
        try:
            yield watcher
        except BaseException:
            stop_flag.set()
            raise
        adopting.result(timeout=60)


def test_a_row_that_the_application_holds_is_filled_later_and_makes_nobody_wait(
    filled: psycopg.Connection[Any], empty_postgres_url: str
) -> None:
    with connect(empty_postgres_url) as holder:
        adopt_until(empty_postgres_url, PREPARE)
        holder.execute("BEGIN; SELECT FROM conversations WHERE conv_id = 7 FOR UPDATE")
        with in_background(empty_postgres_url):
            until(lambda: values(filled, "SELECT count(*) FROM conversations WHERE session_key IS NULL") == [1])
            assert longest_write(filled, 0.5) < 0.3
            holder.execute("ROLLBACK")
    assert values(filled, "SELECT count(*) FROM conversations WHERE session_key IS NULL") == [0]
    assert troubles(empty_postgres_url) == []


def test_nobody_waits_long_behind_an_adoption_that_waits_for_a_lock(
    filled: psycopg.Connection[Any], empty_postgres_url: str
) -> None:
    with connect(empty_postgres_url, application_name="checkout") as holder:
        holder.execute("BEGIN; UPDATE conversations SET user_id = 1 WHERE conv_id = 1")
        with in_background(empty_postgres_url) as watcher:
            until(lambda: watcher.told)
            assert longest_write(filled, 2) < 0.3
            assert re.search(r"pid \d+ \(checkout\)", watcher.told[-1])
            holder.execute("COMMIT")
    assert troubles(empty_postgres_url) == []


def test_who_is_waited_for_before_an_index_is_built_is_named(
    filled: psycopg.Connection[Any], empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "FIRST_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(lookout, "LOOK_SECONDS", 0.1)
    adopt_until(empty_postgres_url, VALIDATE)
    with connect(empty_postgres_url, application_name="report") as holder:
        holder.execute("BEGIN; UPDATE conversations SET user_id = 1 WHERE conv_id = 1")
        with in_background(empty_postgres_url) as watcher:
            until(lambda: len(watcher.told) > 1)
            holder.execute("COMMIT")
    assert "going on with the adoption that began at" in watcher.told[0]
    assert re.fullmatch(r"waiting for the transaction of pid \d+ \(report\)", watcher.told[1])
    assert troubles(empty_postgres_url) == []


def test_an_autovacuum_gives_way(filled: psycopg.Connection[Any], empty_postgres_url: str) -> None:
    # One that somebody runs by hand does not, and is waited for: nobody waits behind that.
    with connect(empty_postgres_url) as holder:
        holder.execute("BEGIN; LOCK TABLE conversations IN SHARE UPDATE EXCLUSIVE MODE")
        with in_background(empty_postgres_url):
            waiting = "SELECT mode FROM pg_locks WHERE NOT granted AND relation = 'conversations'::regclass"
            assert until(lambda: values(filled, waiting)) == ["ShareUpdateExclusiveLock"]
            assert longest_write(filled, 0.3) < 0.1
            holder.execute("COMMIT")
    assert troubles(empty_postgres_url) == []


def longest_write(connection: psycopg.Connection[Any], seconds: float) -> float:
    """Write as the application does for so long, and return how long the slowest of its statements took."""
    end, longest = time.monotonic() + seconds, 0.0
    while (begin := time.monotonic()) < end:
        connection.execute("UPDATE conversations SET updated_at = now() WHERE conv_id = 200")
        longest = max(longest, time.monotonic() - begin)
        time.sleep(0.01)
    return longest


def test_two_at_once_are_one_after_the_other(filled: psycopg.Connection[Any], empty_postgres_url: str) -> None:
    with in_background(empty_postgres_url) as one, in_background(empty_postgres_url) as other:
        pass
    assert bool(one.done) != bool(other.done)
    assert troubles(empty_postgres_url) == []
    assert values(filled, "SELECT count(*) FROM conversation_events") == [ENDED]


# --- interruptions ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The end of an adoption, by the test."""


class Killer(Silent):
    """A watcher that ends an adoption before or after a step."""

    def __init__(self, step: str, *, before: bool) -> None:
        super().__init__()
        self._step = step
        self._before = before

    @contextmanager
    def doing(self, step: Step) -> Iterator[None]:
        if step.key == self._step and self._before:
            raise Killed
        with super().doing(step):
            yield
        if step.key == self._step:
            raise Killed


def adopt_until(url: str, step: str, *, before: bool = False) -> None:
    """Adopt up to a step, and leave it there."""
    with pytest.raises(Killed):
        adopt(url, watcher=Killer(step, before=before))


@pytest.mark.parametrize("form", [GUARDED, OWNS_VERSION], ids=str)
def test_an_adoption_goes_on_after_each_of_its_steps(empty_postgres_url: str, form: Form) -> None:
    with connect(empty_postgres_url) as connection:
        create_old_table(connection, form)
        fill(connection, ROWS, form)
        keys = [step.key for step in remaining(empty_postgres_url)]
        assert len(keys) == 16
        for place, key in enumerate(keys, start=1):
            adopt_until(empty_postgres_url, key)
            left = [step.key for step in remaining(empty_postgres_url)]
            assert [key for key in left if key not in REPEATED] == [key for key in keys[place:] if key not in REPEATED]
        assert remaining(empty_postgres_url) == []
        assert troubles(empty_postgres_url) == []
        # Where a pair has an active and a paused one, the newest is the paused one.
        assert values(connection, "SELECT count(*) FROM conversation_events") == [ENDED]


def remaining(url: str) -> list[Step]:
    """Return the steps that are left."""
    from lapse.adoption.adopt import Adoption

    database = Database(url)
    try:
        return database.autocommit(
            lambda connection: Adoption(store=connection, idle_timeout_seconds=1_800).foresee()[0], retry=False
        )
    finally:
        database.close()


def test_what_an_interrupted_build_left_behind_is_built_again(
    filled: psycopg.Connection[Any], empty_postgres_url: str
) -> None:
    adopt_until(empty_postgres_url, FUNCTIONS, before=True)
    filled.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_conversations_open_session'::regclass"
    )
    adopt(empty_postgres_url)
    assert troubles(empty_postgres_url) == []
    assert values(filled, "SELECT to_regclass('ix_conversations_open_session')") == [None]


class Latecomer(Silent):
    """A transaction of the application's that opens a conversation before others end, and commits afterwards."""

    def __init__(self, application: psycopg.Connection[Any]) -> None:
        super().__init__()
        self._application = application

    @contextmanager
    def doing(self, step: Step) -> Iterator[None]:
        if step.kind == FUNCTIONS:
            self._application.execute(
                """BEGIN; INSERT INTO conversations (owner_id, from_number, to_number)
                SELECT owner_id, from_number, to_number FROM conversations WHERE conv_id = (
                    SELECT max(conv_id) FROM conversations)"""
            )
        if step.kind == UNIQUE and not self.told:
            threading.Timer(0.3, self._application.execute, ["COMMIT"]).start()
        with super().doing(step):
            yield


def test_a_duplicate_that_comes_late_ends_too(filled: psycopg.Connection[Any], empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as application:
        watcher = adopt(empty_postgres_url, watcher=Latecomer(application))
    assert watcher.told == ["a duplicate came late: looking for duplicates again"]
    assert watcher.done.count(DUPLICATES) == 2
    assert troubles(empty_postgres_url) == []
    assert values(filled, "SELECT count(*) FROM conversation_events") == [ENDED + 1]


def test_what_somebody_took_off_or_put_on_since_is_set_right(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_old_table(connection)
        fill(connection, 50)
        adopt(empty_postgres_url)
        for fault in FAULTS:
            connection.execute(fault.encode())
            assert adopt(empty_postgres_url).done, fault
            assert troubles(empty_postgres_url) == [], fault
            assert adopt(empty_postgres_url).done == [], fault


def test_a_table_in_another_schema_is_adopted_where_it_is(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        name = values(connection, "SELECT current_database()")[0]
        connection.execute(f"""CREATE SCHEMA "Our App"; ALTER DATABASE {name} SET search_path = "Our App", public""")
    with connect(empty_postgres_url) as connection:
        create_old_table(connection, PLAIN)
        fill(connection, ROWS)
        adopt(empty_postgres_url)
        assert troubles(empty_postgres_url) == []
        assert values(connection, """SELECT count(*) FROM "Our App".conversation_events""") == [ENDED]
        assert values(connection, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [0]
