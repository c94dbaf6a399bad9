"""deploy/postgres/roles.sql: each role does its work with the rights that it has, and nothing else."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from lapse import ConversationService
from lapse.store.operations.schema import head_version
from lapse.store.table_mapping import VERSION_TABLE
from tests.adoption.legacy_table import Form, connect, create_legacy_table, fill
from tests.adoption.roles import SCRIPT, Roles, own_roles
from tests.support import documents
from tests.support.commands import error_line, run_here, running_lapse
from tests.support.http_client import request
from tests.support.waiting import until
from tests.support.workers import EXPIRED, IDLE

FORM = Form(row_security=True)
ROWS = 200
RIGHTS = {
    "conversations": {"SELECT", "INSERT", "UPDATE"},
    "conversation_events": {"SELECT", "INSERT"},
    "message_receipts": {"SELECT", "INSERT"},
    VERSION_TABLE: {"SELECT"},
}
OF_WORKER = {**RIGHTS, "message_receipts": {"SELECT", "DELETE"}}
FORBIDDEN = (
    "DELETE FROM conversations",
    "UPDATE conversation_events SET actor = 'me'",
    "DELETE FROM conversation_events",
    "UPDATE message_receipts SET seen_at = now()",
    f"UPDATE {VERSION_TABLE} SET version_num = '0001'",
    "ALTER TABLE conversations ADD COLUMN mine int",
    "DROP TABLE conversations",
)
TABLES = ("conversations", "conversation_events", "message_receipts", VERSION_TABLE, "lapse_adoption")


@pytest.fixture
def roles(empty_postgres_url: str) -> Iterator[Roles]:
    with own_roles(empty_postgres_url) as roles:
        yield roles


@pytest.fixture
def own(roles: Roles) -> Roles:
    """Lapse's own tables, made by the owner's role."""
    said = roles.apply().stdout
    assert f'Run lapse migrate or lapse adopt as "{roles.name("owner")}", then this script again.' in said
    succeeds("migrate", "--database-url", roles.url("owner"))
    assert roles.apply().stdout == ""
    return roles


@pytest.fixture
def adopted(roles: Roles) -> Roles:
    """A table with row level security, as Supabase has it, adopted by an owner who is no superuser."""
    roles.create("owner", "CREATEROLE")
    roles.create("legacy_application")
    owner, old = roles.name("owner"), roles.name("legacy_application")
    roles.run(f"GRANT CREATE ON SCHEMA public TO {owner}")
    with connect(roles.url("owner")) as connection:
        create_legacy_table(connection, FORM)
    with connect(roles.admin_url) as connection:
        fill(connection, ROWS, FORM, open_share=0.5)
    roles.run(
        f"GRANT SELECT, INSERT, UPDATE ON conversations TO {old}",
        f"GRANT USAGE ON SEQUENCE conversations_conv_id_seq TO {old}",
        f"CREATE POLICY of_legacy_application ON conversations TO {old} USING (true) WITH CHECK (true)",
    )
    succeeds("adopt", "--database-url", roles.url("owner"))
    assert roles.apply(roles.url("owner")).stdout == ""
    return roles


def succeeds(*arguments: str) -> str:
    result = run_here(*arguments)
    assert result.returncode == 0, result
    return result.stdout


def diagnose(url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_here("doctor", "--json", "--database-url", url).stdout)
    return found


def error_codes(url: str) -> set[str]:
    return {finding["code"] for finding in diagnose(url)["findings"] if finding["level"] == "error"}


def values(url: str, query: str) -> list[Any]:
    with connect(url) as connection:
        return [value for (value,) in connection.execute(query.encode()).fetchall()]


def is_refused(url: str, statement: str) -> bool:
    """Tell whether it is for want of a right; it never takes effect."""
    with connect(url) as connection:
        connection.execute("BEGIN")
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return True
        finally:
            connection.execute("ROLLBACK")
    return False


def rights(roles: Roles, role: str) -> dict[str, set[str]]:
    """Return what a role may do with each table of this database."""
    kinds = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
    query = "SELECT has_table_privilege(%s, %s, %s)"
    with connect(roles.admin_url) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        return {
            table: {
                kind
                for kind in kinds
                if connection.execute(query, [roles.name(role), table, kind]).fetchone() == (True,)
            }
            for (table,) in tables.fetchall()
        }


def use_the_whole_library(url: str) -> None:
    customer, business = "+5511999990001", "+14155238886"
    with closing(ConversationService(url)) as service:
        opened = service.record_message(70, customer, business, metadata={"from": "test"})
        service.record_message(70, customer, business)
        service.record_message(70, business, customer, sender="agent")
        service.extend_expiration(opened.conv_id, 60)
        service.close_conversation(opened.conv_id, "agent_closed", reason="solved")
        other = service.create_conversation(70, customer, business)
        assert service.get_or_create_conversation(70, business, customer).conv_id == other.conv_id
        assert [found.conv_id for found in service.get_active_conversations(70)] == [other.conv_id]
        assert len(service.get_conversation_history(70, customer, business)) == 2
        assert service.get_conversation_by_id(other.conv_id, owner_id=70).status == "pending"
        assert [event.type for event in service.get_conversation_events(opened.conv_id)] == ["activated", "closed"]
        service.find_idle_conversations()
        service.find_expired_conversations()
        service.process_idle_conversations(limit=1)
        service.process_expired_conversations(limit=1)
        service.next_deadlines()


def make_due(roles: Roles) -> None:
    """Let one conversation be idle and one be past its expiry."""
    with closing(ConversationService(roles.url("application"))) as service:
        idle = service.record_message(80, "+12125550001", "+14155238886").conv_id
        expired = service.record_message(80, "+12125550002", "+14155238886").conv_id
    hour_ago = "now() - interval '1 hour'"
    roles.run(
        f"UPDATE conversations SET updated_at = {hour_ago}, idle_check_at = {hour_ago} WHERE conv_id = '{idle}'",
        f"UPDATE conversations SET expires_at = {hour_ago} WHERE conv_id = '{expired}'",
    )


def work(url: str) -> dict[str, int]:
    """Let a worker go through what is due; return how many conversations each of its tasks ended."""
    with running_lapse("worker", "--http", "127.0.0.1:0", env={"DATABASE_URL": url}) as worker:
        port = worker.wait_for("http server listening")["port"]

        def health() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(request(port, "/health").text)
            return found

        until(lambda: all(task["total_runs"] for task in health()["tasks"].values()))
        assert request(port, "/readyz").status == 200
        assert health()["status"] == "healthy"
        worker.stop(signal.SIGTERM)
        assert (worker.process.returncode, worker.stderr) == (0, "")
    assert [line for line in worker.log if line["level"] != "info"] == []
    lines = [line for line in worker.log if line["event"] == "task processed"]
    return {task: sum(line["count"] for line in lines if line["task"] == task) for task in (IDLE, EXPIRED)}


def test_each_role_does_its_work_with_lapses_own_tables_and_no_more(own: Roles) -> None:
    for role in ("owner", "application", "worker"):
        assert diagnose(own.url(role))["findings"] == [], role
    use_the_whole_library(own.url("application"))
    make_due(own)
    assert work(own.url("worker")) == {IDLE: 1, EXPIRED: 1}
    assert head_version() in succeeds("status", "--database-url", own.url("worker"))
    assert rights(own, "application") == RIGHTS
    assert rights(own, "worker") == OF_WORKER
    for role in ("application", "worker"):
        for statement in (*FORBIDDEN, "CREATE TABLE mine (id int)", "TRUNCATE conversations CASCADE"):
            assert is_refused(own.url(role), statement), (role, statement)


def test_each_role_does_its_work_with_an_adopted_table_and_no_more(adopted: Roles) -> None:
    for role in ("owner", "application", "worker"):
        assert error_codes(adopted.url(role)) == set(), role
    assert work(adopted.url("worker")).keys() == {IDLE, EXPIRED}
    use_the_whole_library(adopted.url("application"))
    make_due(adopted)
    assert work(adopted.url("worker")) == {IDLE: 1, EXPIRED: 1}
    succeeds("status", "--database-url", adopted.url("worker"))
    beside: dict[str, set[str]] = {"lapse_adoption": {"SELECT"}, "messages": set()}
    assert rights(adopted, "application") == RIGHTS | beside
    assert rights(adopted, "worker") == OF_WORKER | beside
    draw = "SELECT nextval('conversations_conv_id_seq')"
    assert (is_refused(adopted.url("worker"), draw), is_refused(adopted.url("application"), draw)) == (True, False)
    for role in ("application", "worker"):
        for statement in (*FORBIDDEN, "UPDATE lapse_adoption SET keep = 'oldest'", "SELECT * FROM messages"):
            assert is_refused(adopted.url(role), statement), (role, statement)


def test_the_old_application_goes_on_without_any_right_to_the_history(adopted: Roles) -> None:
    url = adopted.url("legacy_application")
    insert = "INSERT INTO conversations (owner_id, from_number, to_number) VALUES (90, %s, %s) RETURNING conv_id"
    with connect(url) as connection:
        first, second = (
            connection.execute(insert, numbers).fetchall()[0][0]
            for numbers in (("+5511900000001", "+14155238886"), ("whatsapp:+14155238886", "+5511900000001"))
        )
        connection.execute("UPDATE conversations SET updated_at = now(), context = '{}' WHERE conv_id = %s", [second])
        connection.execute("UPDATE conversations SET status = 'progress' WHERE conv_id = %s", [second])
    statuses = "SELECT status FROM conversations WHERE owner_id = 90 ORDER BY conv_id"
    assert values(url, statuses) == ["expired", "progress"]
    of_first = f"SELECT reason FROM conversation_events WHERE conv_id = {first}"
    assert values(adopted.url("worker"), of_first) == ["duplicate_session"]
    assert is_refused(url, "SELECT * FROM conversation_events")


def test_without_policies_a_worker_is_blind_and_doctor_says_what_is_missing(adopted: Roles) -> None:
    url, policy = adopted.url("worker"), f"lapse_{adopted.name('worker')}"
    for table in TABLES:
        adopted.run(f"DROP POLICY {policy} ON {table}")
    hidden = "shows this role no row of lapse_schema_version, for row level security, say: run `lapse doctor`"
    assert error_line(run_here("worker", "--once", "--database-url", url), 1).endswith(hidden)
    found = diagnose(url)
    assert found["kind"] == "adopted"
    lines = [each["message"] for each in found["findings"] if each["code"] == "row-security"]
    assert len(lines) == 4
    for table in set(TABLES) - {"lapse_adoption"}:
        assert any(line.startswith(f"Row level security of {table} has no policy for role") for line in lines), table
    adopted.apply(adopted.url("owner"))
    assert error_codes(url) == set()
    assert sum(work(url).values()) > 0


def test_a_worker_that_may_not_write_the_history_says_whom_to_ask(adopted: Roles) -> None:
    url = adopted.url("worker")
    adopted.run(f"DROP POLICY lapse_{adopted.name('worker')} ON conversation_events")
    failed = [json.loads(line) for line in run_here("worker", "--once", "--database-url", url).stdout.splitlines()]
    errors = {line["error"] for line in failed if line["event"] == "task failed"}
    assert errors == {
        'the database refused: new row violates row-level security policy for table "conversation_events": '
        "run `lapse doctor`, which says what this role lacks"
    }
    assert error_codes(url) == {"row-security"}
    advice = "run `lapse doctor`, which says what this role lacks"
    for table in ("conversations", VERSION_TABLE):
        adopted.run(f"REVOKE SELECT ON {table} FROM {adopted.name('worker')}")
        line = error_line(run_here("status", "--database-url", url), 1)
        assert line.endswith(f"permission denied for table {table}: {advice}")


def test_who_may_not_migrate_is_told_so_in_one_line(own: Roles) -> None:
    own.run(f"DROP TABLE conversations, conversation_events, message_receipts, {VERSION_TABLE}")
    line = error_line(run_here("migrate", "--database-url", own.url("worker")), 1)
    assert line == "the database refused: permission denied for schema public"


def test_an_applications_own_policies_are_not_opened(adopted: Roles) -> None:
    application = adopted.name("application")
    adopted.run(
        f"DROP POLICY lapse_{application} ON conversations",
        f"DROP POLICY lapse_{application} ON conversation_events",
        f"DROP POLICY lapse_{application} ON message_receipts",
        "CREATE POLICY of_tenant ON conversations USING (owner_id = current_setting('app.tenant', true)::bigint)",
    )
    said = adopted.apply().stdout
    assert said.startswith(f'The policies of public.conversations apply to "{application}" and stay as they are.')
    assert "row-security-filter" in {finding["code"] for finding in diagnose(adopted.url("application"))["findings"]}
    assert values(adopted.url("application"), "SELECT count(*) FROM conversations") == [0]
    assert error_codes(adopted.url("worker")) == set()


def test_a_role_is_taken_off_as_the_readme_says(adopted: Roles) -> None:
    (statements,) = documents.blocks(SCRIPT.with_name("README.md"), "sql")
    worker = adopted.name("worker")
    with connect(adopted.url("owner")) as connection:
        connection.execute(statements.replace("lapse_worker", worker).encode())
        left = connection.execute("SELECT FROM pg_policies WHERE policyname = %s", [f"lapse_{worker}"])
        assert left.fetchall() == []
    assert values(adopted.admin_url, f"SELECT to_regrole('{worker}') IS NULL") == [True]


def test_only_the_purger_deletes(own: Roles) -> None:
    own.apply(purger=True)
    use_the_whole_library(own.url("application"))
    own.run("UPDATE conversations SET ended_at = now() - interval '100 days' WHERE status = 'agent_closed'")
    purge = ("purge", "--closed-before", "90", "--database-url")
    assert "permission denied for table conversation" in error_line(run_here(*purge, own.url("worker")), 1)
    assert "1 conversation" in succeeds(*purge, own.url("purger"))
    assert rights(own, "purger")["conversations"] == {"SELECT", "DELETE"}
    assert is_refused(own.url("purger"), "UPDATE conversations SET status = 'failed'")


def test_a_schema_that_is_open_to_all_is_pointed_out(own: Roles) -> None:
    own.run("GRANT CREATE ON SCHEMA public TO PUBLIC")
    assert 'REVOKE CREATE ON SCHEMA "public" FROM PUBLIC;' in own.apply().stdout
