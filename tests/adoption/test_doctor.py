"""`lapse doctor`: it says what a database is, in words and in JSON, and writes nothing."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from lapse import ConversationService
from lapse.adoption import bounded_queries
from lapse.store.table_mapping import VERSION_TABLE
from tests.adoption.examining import codes, diagnose, rolled_back, with_fault
from tests.adoption.legacy_table import FORMS, Form, connect, create_legacy_table, fill
from tests.database.test_partitions import block
from tests.support.backlog import BUSINESS, customer
from tests.support.citus_stand_in import install_stand_in
from tests.support.commands import error_line, run_here, run_lapse
from tests.support.pgbouncer import require_pgbouncer, running_pgbouncer, through_pooler
from tests.support.require_program import missing

ROWS = 300
NO_TRIGGER = Form(updated_at_trigger=False)
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def examined(url: str, code: int) -> dict[str, Any]:
    result = run_here("doctor", "--json", "--database-url", url)
    assert (result.returncode, result.stderr) == (code, "")
    found: dict[str, Any] = json.loads(result.stdout)
    assert list(found) == ["database", "kind", "traits", "server_version", "findings", "healthy"]
    return found


def codes_of(found: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in found["findings"]]


def run(url: str, *statements: str) -> None:
    with connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def converse(url: str, number: int = 20) -> None:
    with closing(ConversationService(url)) as service:
        for each in range(number):
            service.record_message(1, customer(each), BUSINESS)


def test_nothing_is_found_on_a_clean_database_of_lapses_own(postgres_url: str) -> None:
    converse(postgres_url)
    found = examined(postgres_url, 0)
    assert (found["kind"], found["traits"], found["findings"], found["healthy"]) == ("own", [], [], True)
    result = run_lapse("doctor", "--database-url", postgres_url)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "healthy"


def test_through_pgbouncer_only_the_trait_is_another(postgres_url: str) -> None:
    require_pgbouncer()
    converse(postgres_url)
    with running_pgbouncer(postgres_url) as pooler:
        found = examined(through_pooler(pooler, postgres_url), 0)
    assert (found["kind"], found["traits"], found["findings"]) == ("own", ["pooled"], [])


def test_an_old_table_without_faults_is_only_not_adopted(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, NO_TRIGGER)
        fill(connection, ROWS, NO_TRIGGER, is_dirty=False, open_share=0)
    found = examined(empty_postgres_url, 1)
    assert (found["kind"], codes_of(found)) == ("adoptable", ["not-adopted"])
    assert found["findings"][0]["hint"] == "`lapse adopt --dry-run`, then `lapse adopt`"


def test_each_form_of_the_old_table_is_adoptable(empty_postgres_url: str) -> None:
    always = {
        "not-adopted",
        "duplicates",
        "(activity-trigger)",
        "(null-channel)",
        "(null-context)",
        "(null-expires-at)",
    }
    with connect(empty_postgres_url) as connection:
        for form in FORMS:
            with rolled_back(connection):
                create_legacy_table(connection, form)
                fill(connection, ROWS, form)
                found = diagnose(connection)
            expected = always | ({"(unknown-status)"} if form.extra_statuses else set())
            assert (found.kind, set(codes(found))) == ("adoptable", expected), str(form)


def test_duplicates_are_counted_across_both_spellings_of_a_number(empty_postgres_url: str) -> None:
    rows = [
        "(1, 'whatsapp:+5511900000001', '+14155238886', 'pending', NULL)",
        "(1, '+14155238886', '+5511900000001', 'progress', 'WhatsApp ')",
        "(1, '+5511900000001', 'WhatsApp: +14155238886', 'idle_timeout', 'whatsapp')",
        "(1, '+5511900000001', '+14155238886', 'expired', 'whatsapp')",
        "(1, '+5511900000001', '+14155238886', 'pending', 'sms')",
        "(2, '+5511900000001', '+14155238886', 'pending', 'whatsapp')",
    ]
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, NO_TRIGGER)
        insert = "INSERT INTO conversations (owner_id, from_number, to_number, status, channel) VALUES "
        found = with_fault(connection, insert + ", ".join(rows))
    (duplicates,) = [finding for finding in found.findings if finding.code == "duplicates"]
    assert duplicates.message.startswith("1 pair of addresses has several open conversations.")
    assert "at least 2" in duplicates.message


def test_an_empty_database_is_told_from_one_whose_table_is_out_of_sight(empty_postgres_url: str) -> None:
    found = examined(empty_postgres_url, 1)
    assert (found["kind"], codes_of(found)) == ("empty", ["empty"])
    elsewhere = "CREATE SCHEMA app; CREATE TABLE app.conversations (conv_id int);"
    stranger = "CREATE ROLE lapse_doctor_stranger; SET LOCAL ROLE lapse_doctor_stranger;"
    with connect(empty_postgres_url) as connection:
        visible = with_fault(connection, elsewhere)
        hidden = with_fault(connection, elsewhere + stranger)
    assert (visible.kind, codes(visible)) == ("empty", ["(table-elsewhere)", "empty"])
    assert (hidden.kind, codes(hidden)) == ("hidden", ["missing-privilege"])
    assert hidden.findings[0].hint == 'GRANT USAGE ON SCHEMA "app" TO "lapse_doctor_stranger";'


def test_a_table_that_cannot_be_adopted_is_named_with_each_reason(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        table = with_fault(
            connection,
            """CREATE TABLE conversations (id int PRIMARY KEY, conv_id numeric, from_number text,
                to_number text NOT NULL, status text, started_at timestamp, updated_at timestamptz)""",
        )
        view = with_fault(connection, "CREATE VIEW conversations AS SELECT 1 AS conv_id")
    assert (table.kind, view.kind) == ("other", "other")
    assert codes(table) == ["missing-column", "nullable-column", "primary-key", "wrong-type"]
    assert codes(view) == ["not-a-table"]
    assert "ALTER TABLE public.conversations ADD COLUMN owner_id bigint;" in [
        finding.hint for finding in table.findings
    ]
    (started,) = [finding.hint for finding in table.findings if "started_at" in finding.message]
    assert "USING started_at AT TIME ZONE 'UTC'" in started


def test_traits_are_named(postgres_url: str) -> None:
    set_version = f"UPDATE {VERSION_TABLE} SET version_num = "
    with connect(postgres_url) as connection:
        behind = with_fault(connection, f"{set_version}'0002'")
        ahead = with_fault(connection, f"{set_version}'9999'")
    assert (behind.traits, codes(behind)) == (["behind"], ["schema-behind"])
    assert (ahead.traits, codes(ahead)) == (["ahead"], ["schema-ahead"])
    with connect(postgres_url) as connection:
        partitioned = with_fault(connection, block("sql"))
    assert (partitioned.traits, codes(partitioned)) == (["partitioned"], [])
    install_stand_in(postgres_url)
    run(postgres_url, "SELECT create_distributed_table('conversations', 'owner_id')")
    found = examined(postgres_url, 0)
    assert (found["traits"], found["findings"]) == (["distributed"], [])


def test_it_writes_nothing_and_works_where_nothing_can_be_written(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection)
        fill(connection, ROWS)
        written = """SELECT pg_stat_clear_snapshot(), (SELECT count(*) FROM pg_class),
            (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables)"""
        connection.execute(
            "DO $$BEGIN IF to_regproc('pg_stat_force_next_flush') IS NOT NULL THEN PERFORM "
            "pg_stat_force_next_flush(); END IF; END$$"
        )
        before = connection.execute(written.encode()).fetchall()
        examined(empty_postgres_url, 1)
        assert connection.execute(written.encode()).fetchall() == before
        name = make_url(empty_postgres_url).database
        connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
    found = examined(empty_postgres_url, 1)
    assert found["traits"] == ["read-only"]
    assert {"read-only", "duplicates", "not-adopted"} <= set(codes_of(found))
    assert "unknown" not in codes_of(found)


def test_a_check_that_takes_too_long_is_unknown_and_not_fatal(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_queries, "STATEMENT_TIMEOUT", "100ms")
    slow = """
        CREATE POLICY slow ON conversations USING (pg_sleep(60) IS NULL);
        CREATE ROLE lapse_doctor_stranger; GRANT SELECT ON conversations TO lapse_doctor_stranger;
        SET LOCAL ROLE lapse_doctor_stranger"""
    form = Form(row_security=True)
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, form)
        fill(connection, ROWS, form)
        found = with_fault(connection, slow)
    unknown = [finding.message for finding in found.findings if finding.code == "unknown"]
    assert [message.split(":")[0] for message in unknown] == ["Could not check duplicates", "Could not check rows"]
    assert all("statement timeout" in message for message in unknown)
    assert "not-adopted" in codes(found)


def test_a_table_that_somebody_alters_is_not_waited_for(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_queries, "LOCK_TIMEOUT", "50ms")
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection)
        with rolled_back(connection):
            connection.execute("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE")
            line = error_line(run_here("doctor", "--database-url", empty_postgres_url), 1)
    assert line.startswith("another session has locked the tables")


def test_no_address_is_printed_and_all_is_readable_in_80_columns(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection)
        fill(connection, ROWS)
        connection.execute("ALTER TABLE conversations DROP CONSTRAINT conversations_status_check")
        connection.execute("UPDATE conversations SET status = 'with +5511987654321' WHERE conv_id = 1")
    result = run_here("doctor", "--database-url", empty_postgres_url)
    assert result.returncode == 1
    assert "+55119" not in result.stdout.replace("+55119*****", "")
    assert "+1415" not in result.stdout
    lines = result.stdout.splitlines()
    assert [line for line in lines if len(line) >= 80 and not line.startswith("database:")] == []
    assert "error: not-adopted" in lines
    assert lines[-1].startswith("not healthy: 2 errors, ")


@pytest.mark.parametrize(("shift", "level", "code"), [("+30s", "warning", 0), ("-300s", "error", 1)])
def test_a_wrong_clock_is_found(postgres_url: str, shift: str, level: str, code: int) -> None:
    if not LIBRARIES:
        missing("libfaketime is not installed (apt-get install faketime)")
    env = {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    result = run_lapse("doctor", "--json", "--database-url", postgres_url, env=env)
    assert (result.returncode, result.stderr) == (code, "")
    (found,) = json.loads(result.stdout)["findings"]
    assert (found["level"], found["code"]) == (level, "clock-difference")
    assert f"{shift[1:-1]} s {'ahead of' if shift[0] == '+' else 'behind'} the database's" in found["message"]


def test_a_database_out_of_reach_is_one_clear_line() -> None:
    line = error_line(run_lapse("doctor", "--database-url", "postgresql://me:hunter2@127.0.0.1:1/chat"), 1)
    assert "not available" in line
    assert "hunter2" not in line
