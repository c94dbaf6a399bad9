"""What the legacy application writes fits lapse's rules, and the application notices nothing of it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from lapse.adoption.names import Names
from lapse.adoption.row_triggers import drop_triggers_and_functions, row_functions
from tests.adoption.inserting import AGENT, ANA, BOB, DUPLICATE, KEY, events, found, insert
from tests.adoption.installed_functions import (
    IDLE_SECONDS,
    Connection,
    functions_and_triggers,
    install,
    run,
    table_of,
    unique_index,
)
from tests.adoption.legacy_table import FORMS, GUARDED, PLAIN, Form, connect


@pytest.fixture
def application(empty_postgres_url: str) -> Iterator[Connection]:
    with connect(empty_postgres_url) as connection:
        yield connection


def install_with_index(connection: Connection, keys: str, form: Form = PLAIN) -> None:
    """Install everything on a table that has a unique index of the application's."""
    names = install(connection, form, ends_others=False, unique=False)
    run(connection, f"CREATE UNIQUE INDEX own ON conversations {keys} WHERE status IN ('pending', 'progress')")
    run(connection, *row_functions(names, table_of(connection), ends_others=True), unique_index(names))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_the_application_opens_ends_the_other_of_its_pair(application: Connection, form: Form) -> None:
    owner = "5b1b0f7e-0000-4000-8000-000000000001" if form.owner_id == "uuid" else 1
    own_id = {"text": "01JQ{}", "uuid": "5b1b0f7e-0000-4000-8000-00000000000{}"}.get(form.conv_id)
    ids = [{"conv_id": own_id.format(number)} if own_id else {} for number in range(4)]
    names = install(application, form)
    first = insert(application, owner_id=owner, status="idle_timeout", **ids[0])
    second = insert(application, owner_id=owner, status="pending", **ids[1])
    insert(application, BOB, owner_id=owner, **ids[2])
    key, version, check = (names.column(name) for name in ("session_key", "version", "idle_check_at"))
    assert found(application, f"status, ended_at IS NOT NULL, {version}, {key}", f"WHERE {key} = '{KEY}'") == [
        ("expired", True, 1, KEY),
        ("pending", False, 0, KEY),
    ]
    assert set(found(application, f"{check} - updated_at = interval '{IDLE_SECONDS} seconds'")) == {True}
    assert events(application) == [(first, "idle_timeout", *DUPLICATE)]
    if form.unique_index:
        with pytest.raises(psycopg.errors.UniqueViolation, match="idx_conversations_active_session"):
            insert(application, owner_id=owner, **ids[3])
        assert events(application) == [(first, "idle_timeout", *DUPLICATE)]
    else:
        insert(application, owner_id=owner, **ids[3])
        assert events(application)[-1] == (second, "pending", *DUPLICATE)


def test_what_lapse_itself_writes_ends_nothing(application: Connection) -> None:
    install(application)
    first = insert(application)
    with pytest.raises(psycopg.errors.UniqueViolation, match="uq_conversations_open_session"):
        insert(application, session_key=KEY)
    insert(application, session_key="of lapse", idle_check_at="2026-01-01")
    run(application, f"UPDATE conversations SET status = 'progress', version = 5 WHERE conv_id = {first}")
    assert found(application, "session_key, version, status") == [(KEY, 5, "progress"), ("of lapse", 0, "pending")]
    assert found(application, "conv_id", "WHERE idle_check_at = '2026-01-01'") != []
    assert events(application) == []


def test_at_first_keys_are_filled_and_nothing_is_ended(application: Connection) -> None:
    install(application, ends_others=False, unique=False)
    first = insert(application)
    insert(application, f"whatsapp:{ANA}")
    run(application, f"UPDATE conversations SET to_number = '{BOB}' WHERE conv_id = {first}")
    assert found(application, "session_key, status") == [(f"{AGENT}::{BOB}", "pending"), (KEY, "pending")]
    run(application, *row_functions(Names(), table_of(application), ends_others=True))
    insert(application)
    assert found(application, "status") == ["pending", "expired", "pending"]


def test_of_several_rows_in_one_statement_the_last_stays_open(application: Connection) -> None:
    install(application)
    rows = ", ".join(f"(1, '{AGENT}', '{prefix}{ANA}', 'pending')" for prefix in ("", "whatsapp:", "tel:"))
    run(application, f"INSERT INTO conversations (owner_id, from_number, to_number, status) VALUES {rows}")
    with application.cursor().copy("COPY conversations (owner_id, from_number, to_number) FROM STDIN") as copy:
        for _ in range(2):
            copy.write_row((1, ANA, AGENT))
    assert found(application, "status, version") == [*[("expired", 1)] * 4, ("pending", 0)]
    assert [event[1:] for event in events(application)] == [("pending", *DUPLICATE)] * 4


def test_thousands_of_conversations_can_be_opened_in_one_transaction(application: Connection) -> None:
    install(application)
    [(places,)] = application.execute(
        "SELECT current_setting('max_locks_per_transaction')::int * current_setting('max_connections')::int"
    )
    run(
        application,
        f"""INSERT INTO conversations (owner_id, from_number, to_number)
        SELECT 1, '{AGENT}', '+5511' || n FROM generate_series(1, {2 * places}) AS n""",
    )
    [(opened,)] = application.execute("SELECT count(*) FROM conversations WHERE session_key IS NOT NULL")
    assert opened == 2 * places


@pytest.mark.parametrize("way", ["by its own index", "by its primary key", "whatever it is"])
def test_on_conflict_of_the_applications_does_what_it_did(application: Connection, way: str) -> None:
    form = Form(extra_columns=("\"the key\" text GENERATED ALWAYS AS (replace(to_number, 'whatsapp:', '')) STORED",))
    install_with_index(application, """(owner_id, lower(from_number), "the key")""", form)
    first = insert(application)
    target, do = {
        "by its own index": (
            """(owner_id, lower(from_number), "the key") WHERE status IN ('pending', 'progress')""",
            "UPDATE SET phone_number = 'again'",
        ),
        "by its primary key": ("(conv_id)", "UPDATE SET phone_number = 'again'"),
        "whatever it is": ("", "NOTHING"),
    }[way]
    run(
        application,
        f"""INSERT INTO conversations (conv_id, owner_id, from_number, to_number)
        VALUES ({first if "primary" in way else "DEFAULT"}, 1, '{AGENT}', 'whatsapp:{ANA}')
        ON CONFLICT {target} DO {do}""",
    )
    phone = None if do == "NOTHING" else "again"
    assert found(application, "conv_id, status, version, phone_number") == [(first, "pending", 0, phone)]
    # What is paused stands in no index of the application's.
    run(application, "UPDATE conversations SET status = 'idle_timeout'")
    insert(application)
    assert found(application, "status") == ["expired", "pending"]
    assert events(application) == [(first, "idle_timeout", *DUPLICATE)]


def test_a_function_of_the_applications_own_in_its_index_is_not_called(application: Connection) -> None:
    run(
        application,
        """CREATE SCHEMA own;
        CREATE FUNCTION own.key(text, text) RETURNS text LANGUAGE sql IMMUTABLE
            AS 'SELECT least($1, $2) || greatest($1, $2)';
        SET search_path = public, own""",
    )
    install_with_index(application, "(owner_id, key(from_number, to_number))")
    run(application, "SET search_path = public")
    first = insert(application)
    with pytest.raises(psycopg.errors.UniqueViolation, match="own"):
        insert(application)
    insert(application, f"whatsapp:{ANA}")
    assert events(application) == [(first, "pending", *DUPLICATE)]


def test_what_is_opened_again_or_moved_ends_the_other_of_its_pair(application: Connection) -> None:
    install(application)
    first, second, of_bob = insert(application), insert(application), insert(application, BOB)
    run(application, f"UPDATE conversations SET status = 'progress', ended_at = NULL WHERE conv_id = {first}")
    assert found(application, "status") == ["progress", "expired", "pending"]
    run(application, f"UPDATE conversations SET to_number = '{ANA}' WHERE conv_id = {of_bob}")
    assert found(application, "status, session_key") == [("expired", KEY), ("expired", KEY), ("pending", KEY)]
    other_owner, other_channel = insert(application, owner_id=2), insert(application, channel="sms")
    run(application, f"UPDATE conversations SET owner_id = 1, channel = NULL WHERE conv_id = {other_owner}")
    run(application, f"UPDATE conversations SET channel = ' WhatsApp' WHERE conv_id = {other_channel}")
    # The same pair, spelled differently: nothing begins and nothing ends.
    run(application, f"UPDATE conversations SET to_number = 'whatsapp:{ANA}' WHERE conv_id = {other_channel}")
    assert found(application, "status") == ["expired", "expired", "expired", "expired", "pending"]
    assert [event[0] for event in events(application)] == [first, first, second, of_bob, other_owner]
    assert found(application, "version") == [2, 1, 1, 1, 0]


def test_what_lapse_does_not_know_is_left_alone(application: Connection) -> None:
    install(application, Form(extra_statuses=("human_handoff",)))
    insert(application, status="human_handoff")
    insert(application, status=None)
    insert(application, status="user_closed")
    insert(application, channel=None, expires_at=None, context=None)
    insert(application, status="human_handoff")
    run(application, "UPDATE conversations SET updated_at = now(), status = status")
    run(application, "UPDATE conversations SET status = 'expired' WHERE status = 'human_handoff'")
    assert found(application, "status") == ["expired", None, "user_closed", "pending", "expired"]
    assert set(found(application, "session_key")) == {KEY}
    assert events(application) == []


def test_whatever_the_times_of_a_row_are_it_is_looked_at(application: Connection) -> None:
    install(application)
    soon = f"now() + interval '{IDLE_SECONDS} seconds'"
    for updated_at, started_at, check_at in (
        ("2026-01-01 00:00Z", "2025-01-01 00:00Z", "timestamptz '2026-01-01 00:30Z'"),
        (None, "2025-01-01 00:00Z", "timestamptz '2025-01-01 00:30Z'"),
        (None, None, "timestamptz '1970-01-01 00:30Z'"),
        ("-infinity", None, "timestamptz '1970-01-01 00:30Z'"),
        ("infinity", None, soon),
        ("294276-12-31 23:59:59Z", None, soon),
    ):
        conv_id = insert(application, status="failed", updated_at=updated_at, started_at=started_at)
        is_right = f"idle_check_at BETWEEN {check_at} - interval '1 minute' AND {check_at}"
        assert found(application, is_right, f"WHERE conv_id = {conv_id}") == [True], (updated_at, started_at)
        run(
            application, f"UPDATE conversations SET session_key = NULL, idle_check_at = now() WHERE conv_id = {conv_id}"
        )
        assert found(application, is_right, f"WHERE conv_id = {conv_id}") == [True], (updated_at, started_at)


def test_a_column_of_the_applications_that_is_gone_is_in_nobodys_way(application: Connection) -> None:
    install(application, GUARDED)
    run(application, "ALTER TABLE conversations DROP COLUMN session_key")
    first = insert(application)
    insert(application)
    assert events(application) == [(first, "pending", *DUPLICATE)]


def test_nothing_is_left_of_functions_and_triggers(application: Connection) -> None:
    names = install(application, GUARDED)
    run(application, *drop_triggers_and_functions(names), *drop_triggers_and_functions(names))
    assert [name for name in table_of(application).triggers if "lapse" in name] == []
    assert application.execute("SELECT proname FROM pg_proc WHERE proname LIKE 'lapse%'").fetchall() == []
    run(application, *functions_and_triggers(names, table_of(application), ends_others=True))
    insert(application)


def test_the_text_is_the_same_whenever_it_is_made(application: Connection) -> None:
    names = install(application, GUARDED)
    table = table_of(application)
    run(application, *row_functions(names, table, ends_others=False))
    assert row_functions(names, table_of(application), ends_others=True) == row_functions(
        names, table, ends_others=True
    )


def test_a_whole_row_written_back_keeps_what_lapse_has_done_since(application: Connection) -> None:
    install(application)
    insert(application, status="progress")
    run(application, "CREATE TEMP TABLE read AS SELECT * FROM conversations")
    run(application, "UPDATE conversations SET status = 'idle_timeout', version = 3, idle_check_at = 'infinity'")
    run(
        application,
        """UPDATE conversations AS c SET (status, session_key, version, idle_check_at, updated_at) =
        (r.status, r.session_key, r.version, r.idle_check_at, r.updated_at) FROM read AS r""",
    )
    kept = application.execute(
        """SELECT c.status, c.version, c.idle_check_at = 'infinity', c.updated_at > r.updated_at
        FROM conversations AS c CROSS JOIN read AS r"""
    ).fetchall()
    assert kept == [("progress", 3, True, True)]
