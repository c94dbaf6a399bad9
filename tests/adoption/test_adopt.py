"""What adopting makes of the rows: keys, deadlines, one open conversation per pair, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lapse.addresses import session_key
from lapse.errors import AdoptionError
from tests.adoption.adoption_helpers import ENDED, LegacyConnection, adopt, error_codes, filled_table, values
from tests.adoption.legacy_table import Form, connect, create_legacy_table


@pytest.fixture
def filled(empty_postgres_url: str) -> Iterator[LegacyConnection]:
    with connect(empty_postgres_url) as connection:
        yield filled_table(connection)


def test_rows_get_their_key_and_next_look_and_nothing_else_of_them_changes(
    filled: LegacyConnection, empty_postgres_url: str
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


def test_what_is_in_progress_was_answered(filled: LegacyConnection, empty_postgres_url: str) -> None:
    adopt(empty_postgres_url)
    was_answered = values(
        filled, "SELECT status, count(first_answered_at), count(*) FROM conversations GROUP BY status ORDER BY status"
    )
    assert "progress" in {status for status, _, _ in was_answered}
    assert all(answered == (number if status == "progress" else 0) for status, answered, number in was_answered)


@pytest.mark.parametrize("keep", ["newest", "oldest"])
def test_of_a_pair_one_stays_and_the_events_say_which(
    filled: LegacyConnection, empty_postgres_url: str, keep: str
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
        create_legacy_table(connection)
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
        filled_table(connection, Form(messages=False))
        connection.execute("".join(f"ALTER TABLE conversations DROP COLUMN {name};" for name in optional).encode())
        adopt(empty_postgres_url)
        assert error_codes(empty_postgres_url) == []
        found = values(connection, "SELECT attname FROM pg_attribute WHERE attrelid = 'conversations'::regclass")
        assert set(optional) <= set(found)
        assert values(connection, "SELECT count(*) FROM conversation_events") == [ENDED]


def test_a_trigger_that_takes_the_backfill_for_activity_stops_it(
    filled: LegacyConnection, empty_postgres_url: str
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


def test_a_table_in_another_schema_is_adopted_where_it_is(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        name = values(connection, "SELECT current_database()")[0]
        connection.execute(f"""CREATE SCHEMA "Our App"; ALTER DATABASE {name} SET search_path = "Our App", public""")
    with connect(empty_postgres_url) as connection:
        filled_table(connection)
        adopt(empty_postgres_url)
        assert error_codes(empty_postgres_url) == []
        assert values(connection, """SELECT count(*) FROM "Our App".conversation_events""") == [ENDED]
        assert values(connection, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [0]


def test_a_row_that_the_applications_own_rule_refuses_is_named(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        filled_table(connection)
        connection.execute("INSERT INTO conversations (owner_id, from_number, to_number) VALUES (1, 'nobody', 'a')")
        connection.execute("ALTER TABLE conversations ADD CONSTRAINT phones CHECK (from_number ~ '[0-9]') NOT VALID")
        with pytest.raises(AdoptionError, match=r"refuses a row .*\"phones\".* run it again to resume"):
            adopt(empty_postgres_url)
        connection.execute("DELETE FROM conversations WHERE from_number = 'nobody'")
        adopt(empty_postgres_url)
        assert error_codes(empty_postgres_url) == []
