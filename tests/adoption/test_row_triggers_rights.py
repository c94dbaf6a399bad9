"""Lapse's triggers do their work whoever writes, with whatever settings, and lend their rights to nobody."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest

from lapse.adoption.names import INSERT_FUNCTION, UPDATE_FUNCTION
from tests.adoption.inserting import AGENT, ANA, BOB, DUPLICATE, KEY, events, found, insert
from tests.adoption.installed_functions import Connection, install, run
from tests.adoption.legacy_table import PLAIN, Form, connect


@pytest.fixture
def owner(empty_postgres_url: str) -> Iterator[Connection]:
    with connect(empty_postgres_url) as connection:
        yield connection


@pytest.fixture
def role(owner: Connection) -> Iterator[str]:
    """Return a role without any rights."""
    name = f"lapse_test_{secrets.token_hex(4)}"
    run(owner, f"CREATE ROLE {name} NOLOGIN")
    yield name
    run(owner, "RESET ROLE", f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_an_application_needs_no_right_to_anything_of_lapses(owner: Connection, role: str) -> None:
    run(owner, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    names = install(owner, Form(row_security=True))
    run(
        owner,
        f"ALTER TABLE {names.events} ENABLE ROW LEVEL SECURITY",
        f"GRANT SELECT, INSERT, UPDATE ON conversations TO {role}",
        f"GRANT USAGE ON SEQUENCE conversations_conv_id_seq TO {role}",
        f"CREATE POLICY own ON conversations TO {role} USING (phone_number = 'mine')",
    )
    of_others = insert(owner)
    run(owner, f"SET ROLE {role}")
    first = insert(owner, phone_number="mine")
    insert(owner, phone_number="mine")
    run(owner, f"UPDATE conversations SET to_number = '{BOB}'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        insert(owner)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
        run(owner, "SELECT lapse_session_key('a', 'b', NULL)")
    run(owner, "RESET ROLE")
    assert found(owner, "status, session_key") == [
        ("expired", KEY),
        ("expired", f"{AGENT}::{BOB}"),
        ("pending", f"{AGENT}::{BOB}"),
    ]
    assert events(owner) == [(of_others, "pending", *DUPLICATE), (first, "pending", *DUPLICATE)]


def test_the_functions_belong_to_the_owner_of_the_table(owner: Connection, role: str) -> None:
    run(owner, f"GRANT ALL ON SCHEMA public TO {role}", f"SET ROLE {role}")
    install(owner)
    run(owner, "RESET ROLE")
    install_again = "SELECT DISTINCT pg_get_userbyid(proowner), prosecdef FROM pg_proc WHERE proname = ANY (%s)"
    assert owner.execute(install_again, [[INSERT_FUNCTION, UPDATE_FUNCTION]]).fetchall() == [(role, True)]
    insert(owner)
    insert(owner)
    assert found(owner, "status") == ["expired", "pending"]


def test_nobody_borrows_the_owners_rights_by_a_trigger_of_their_own(owner: Connection, role: str) -> None:
    install(owner)
    victim = insert(owner)
    run(
        owner,
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}",  # as Supabase does by default
        f"SET ROLE {role}",
        """CREATE TEMPORARY TABLE conversations (owner_id bigint, conv_id bigint, from_number text, to_number text,
            channel text, status text, session_key text, idle_check_at timestamptz, idle_timeout_seconds bigint,
            started_at timestamptz, updated_at timestamptz);
        CREATE TRIGGER mine BEFORE INSERT ON pg_temp.conversations
            FOR EACH ROW EXECUTE FUNCTION public.lapse_before_insert()""",
        f"""INSERT INTO pg_temp.conversations (owner_id, from_number, to_number, status)
        VALUES (1, '{AGENT}', '{ANA}', 'pending')""",
        "RESET ROLE",
        "DROP TABLE pg_temp.conversations",
    )
    assert found(owner, "conv_id, status") == [(victim, "pending")]


def test_no_search_path_leads_the_functions_astray(owner: Connection) -> None:
    install(owner)
    run(
        owner,
        """CREATE SCHEMA hostile;
        CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''lower''; END';
        CREATE FUNCTION hostile.same(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''same''; END';
        CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.same);
        CREATE FUNCTION hostile.lapse_session_key(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT ''x''';
        CREATE TABLE hostile.conversations (LIKE public.conversations);
        CREATE TEMPORARY TABLE conversation_events (LIKE public.conversation_events);
        SET search_path = hostile, pg_temp, pg_catalog""",
    )
    for _ in range(2):
        run(
            owner,
            f"INSERT INTO public.conversations (owner_id, from_number, to_number) VALUES (1, '{AGENT}', '{ANA}')",
        )
    run(owner, f"UPDATE public.conversations SET to_number = '{BOB}'")
    run(owner, "SET search_path = public", "DROP TABLE pg_temp.conversation_events")
    assert found(owner, "status, session_key") == [("expired", f"{AGENT}::{BOB}"), ("pending", f"{AGENT}::{BOB}")]
    assert len(events(owner)) == 1


def test_what_replication_writes_has_a_key_too(owner: Connection) -> None:
    install(owner)
    run(owner, "SET session_replication_role = replica")
    insert(owner)
    insert(owner)
    run(owner, f"UPDATE conversations SET to_number = '{BOB}'")
    assert found(owner, "status, session_key") == [("expired", f"{AGENT}::{BOB}"), ("pending", f"{AGENT}::{BOB}")]


def test_the_applications_own_triggers_come_first_and_go_on(owner: Connection) -> None:
    install(owner)
    run(
        owner,
        f"""CREATE FUNCTION correct() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN
                IF NEW.phone_number = ''none'' THEN RETURN NULL; END IF;
                NEW.to_number := ''{ANA}''; RETURN NEW;
            END';
        CREATE TRIGGER correct BEFORE INSERT ON conversations FOR EACH ROW EXECUTE FUNCTION correct();
        CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER keep BEFORE UPDATE ON conversations FOR EACH ROW WHEN (OLD.phone_number = 'kept')
            EXECUTE FUNCTION keep()""",
    )
    run(
        owner,
        f"""INSERT INTO conversations (owner_id, from_number, to_number, phone_number)
        VALUES (1, '{AGENT}', 'x', 'none'), (1, '{AGENT}', 'y', 'kept')""",
    )
    assert found(owner, "session_key") == [KEY]
    # What may not be ended is not ended, without an event; the application's own rule lets no second one in.
    with pytest.raises(psycopg.errors.UniqueViolation, match="uq_conversations_open_session"):
        insert(owner)
    assert events(owner) == []


@pytest.mark.parametrize("form", [PLAIN, Form(updated_at_trigger=False)], ids=["touched", "untouched"])
def test_what_lapse_ends_for_the_application_counts_as_no_activity(owner: Connection, form: Form) -> None:
    install(owner, form)
    insert(owner, updated_at="2026-01-01")
    insert(owner)
    assert found(owner, "updated_at = '2026-01-01', status") == [(True, "expired"), (False, "pending")]


OLD_WORKER = "UPDATE conversations SET status = %s, ended_at = now() WHERE conv_id = %s"


def test_what_lapse_has_ended_the_old_worker_does_not_end_again(owner: Connection) -> None:
    install(owner, Form(extra_statuses=("human_handoff",)))
    ended = {
        status: insert(owner, customer, status=status, ended_at="2026-01-01")
        for customer, status in (
            ("+1", "expired"),
            ("+2", "user_closed"),
            ("+3", "agent_closed"),
            ("+4", "support_closed"),
            ("+5", "failed"),
        )
    }
    paused = insert(owner, "+6", status="idle_timeout")
    for to_status in ("expired", "idle_timeout"):
        for conv_id in ended.values():
            assert owner.execute(OLD_WORKER, [to_status, conv_id]).rowcount == 0
    assert owner.execute(OLD_WORKER, ["idle_timeout", paused]).rowcount == 0
    assert found(owner, "status, ended_at = '2026-01-01'") == [
        *((status, True) for status in ended),
        ("idle_timeout", None),
    ]
    # What is no second end goes on: a paused one expires, what is active ends, other columns change.
    assert owner.execute(OLD_WORKER, ["expired", paused]).rowcount == 1
    for status in ("pending", "progress", "human_handoff", None):
        assert owner.execute(OLD_WORKER, ["expired", insert(owner, "+7", status=status)]).rowcount == 1
    assert owner.execute("UPDATE conversations SET context = '{}', status = status").rowcount == 10
    assert owner.execute("UPDATE conversations SET status = 'user_closed' WHERE status = 'failed'").rowcount == 1
