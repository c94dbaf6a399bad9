"""`lapse doctor` finds each planted fault, and only that. Faults are planted in transactions that are rolled back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from lapse.adoption.checks import vacuum
from lapse.adoption.checks.kind import check_server
from lapse.adoption.inspection import inspect_database
from tests.adoption.examining import as_lapses, codes, diagnose, rolled_back, with_fault
from tests.adoption.legacy_table import Form, connect, create_legacy_table

UNIQUE = "uq_conversations_open_session"
WORKER = "CREATE ROLE lapse_doctor_worker; GRANT USAGE ON SCHEMA public TO lapse_doctor_worker;"
ALL_RIGHTS = f"""{WORKER}
    GRANT SELECT, INSERT, UPDATE ON conversations TO lapse_doctor_worker;
    GRANT SELECT, INSERT ON conversation_events TO lapse_doctor_worker;
    GRANT SELECT, DELETE ON message_receipts TO lapse_doctor_worker;
    GRANT SELECT ON lapse_schema_version TO lapse_doctor_worker;
    CREATE POLICY worker ON conversations TO lapse_doctor_worker USING (true) WITH CHECK (true);
    CREATE POLICY worker ON conversation_events TO lapse_doctor_worker USING (true) WITH CHECK (true);
    CREATE POLICY worker ON message_receipts TO lapse_doctor_worker USING (true) WITH CHECK (true);
    CREATE POLICY worker ON lapse_schema_version TO lapse_doctor_worker USING (true);"""
AS_WORKER = "SET LOCAL ROLE lapse_doctor_worker"
SET_UPDATED_AT = """
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at := now(); RETURN NEW; END';"""
OPEN_TWICE = """
    INSERT INTO conversations (owner_id, conv_id, channel, session_key, from_number, to_number, status, started_at,
        updated_at, expires_at, idle_check_at, idle_timeout_seconds)
    SELECT 1, gen_random_uuid(), 'sms', 'a::b', 'a', 'b', 'pending', now(), now(), now(), now(), 60
    FROM generate_series(1, 3);"""
ONE = OPEN_TWICE.replace("generate_series(1, 3)", "generate_series(1, 1)")

OF_LAPSES_OWN: Mapping[str, tuple[str, list[str]]] = {
    "nothing": ("", []),
    "a row": (ONE, []),
    # Schema.
    "a table": ("DROP TABLE conversation_events", ["missing-table"]),
    "the receipts": ("DROP TABLE message_receipts", ["missing-table"]),
    "a type of the receipts": ("ALTER TABLE message_receipts ALTER owner_id TYPE text", ["wrong-type"]),
    "a key of the receipts": ("ALTER TABLE message_receipts DROP CONSTRAINT pk_message_receipts", ["primary-key"]),
    "a column": ("ALTER TABLE conversations DROP COLUMN last_inbound_at", ["missing-column"]),
    "a column of events": ("ALTER TABLE conversation_events DROP COLUMN data", ["missing-column"]),
    "a type": ("ALTER TABLE conversations ALTER COLUMN user_id TYPE text", ["wrong-type"]),
    "an index": ("DROP INDEX ix_conversations_expires_at_open", ["missing-index"]),
    "another index": (
        f"DROP INDEX {UNIQUE}; CREATE UNIQUE INDEX {UNIQUE} ON conversations (owner_id, channel, session_key) "
        "WHERE status IN ('pending', 'progress')",
        ["differing-index"],
    ),
    "an index that is not unique": (
        f"DROP INDEX {UNIQUE}; CREATE INDEX {UNIQUE} ON conversations (owner_id, channel, session_key) "
        "WHERE status IN ('pending', 'progress', 'idle_timeout')",
        ["differing-index"],
    ),
    "the same index with a fill factor": (
        "DROP INDEX ix_conversations_expires_at_open; CREATE INDEX ix_conversations_expires_at_open ON conversations "
        "(expires_at) WITH (fillfactor = 70) WHERE status IN ('pending', 'progress', 'idle_timeout')",
        [],
    ),
    "an invalid index": (
        "CREATE INDEX left_over ON conversation_events (actor); "
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'left_over'::regclass",
        ["invalid-index"],
    ),
    "a primary key": ("ALTER TABLE conversation_events DROP CONSTRAINT pk_conversation_events", ["primary-key"]),
    "a constraint": ("ALTER TABLE conversations DROP CONSTRAINT ck_conversations_status", ["missing-constraint"]),
    "a constraint that is not validated": (
        "ALTER TABLE conversations DROP CONSTRAINT ck_conversations_status, ADD CONSTRAINT ck_conversations_status "
        "CHECK (status IN ('pending', 'progress', 'idle_timeout', 'agent_closed', 'support_closed', 'user_closed', "
        "'expired', 'failed')) NOT VALID",
        ["missing-constraint"],
    ),
    "an index over activity": ("CREATE INDEX ON conversations (owner_id, updated_at DESC)", ["(activity-index)"]),
    "an index that mentions activity": (
        "CREATE INDEX ON conversations (owner_id) WHERE last_inbound_at IS NULL",
        ["(activity-index)"],
    ),
    # What refuses or changes lapse's rows.
    "a CHECK": ("ALTER TABLE conversations ADD CHECK (status <> 'idle_timeout')", ["status-check"]),
    "a CHECK with other words": (
        "ALTER TABLE conversations ADD CHECK (length(status) < 12 OR status LIKE 's%')",
        ["status-check"],
    ),
    "a CHECK that refuses nothing": ("ALTER TABLE conversations ADD CHECK (length(status) > 3)", []),
    "a CHECK by somebody's function": (
        "CREATE FUNCTION never(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE ''called''; END'; "
        "ALTER TABLE conversations ADD CHECK (never(status))",
        [],
    ),
    "a short status": (
        "ALTER TABLE conversations ALTER COLUMN status TYPE varchar(12)",
        ["status-check", "wrong-type"],
    ),
    "a column to fill": ("ALTER TABLE conversations ADD COLUMN team text NOT NULL", ["(required-column)"]),
    "a column of events to fill": ("ALTER TABLE conversation_events ADD COLUMN x int NOT NULL", ["required-column"]),
    "a trigger": (
        f"{SET_UPDATED_AT} CREATE TRIGGER touch BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch()",
        ["activity-trigger"],
    ),
    "a trigger that is switched off": (
        f"{SET_UPDATED_AT} CREATE TRIGGER touch BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch(); "
        "ALTER TABLE conversations DISABLE TRIGGER touch",
        [],
    ),
    "a trigger for other columns": (
        f"{SET_UPDATED_AT} CREATE TRIGGER touch BEFORE UPDATE OF context, metadata ON conversations FOR EACH ROW "
        "EXECUTE FUNCTION touch()",
        [],
    ),
    "a trigger afterwards": (
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE conversations SET updated_at = now()"
        " WHERE conv_id = NEW.conv_id; RETURN NULL; END'; "
        "CREATE TRIGGER touch AFTER UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch()",
        ["(activity-trigger-after)"],
    ),
    # Rows.
    "duplicates": (f"DROP INDEX {UNIQUE}; {OPEN_TWICE}", ["duplicates", "missing-index"]),
    "an unknown status": (
        f"{ONE} ALTER TABLE conversations DROP CONSTRAINT ck_conversations_status; "
        "UPDATE conversations SET status = 'human_handoff'",
        ["(unknown-status)", "missing-constraint"],
    ),
    "a NULL": (
        f"{ONE} ALTER TABLE conversations ALTER COLUMN expires_at DROP NOT NULL, ALTER status DROP NOT NULL; "
        "UPDATE conversations SET expires_at = NULL, status = NULL",
        ["(null-expires-at)", "(null-status)"],
    ),
    "a time that no calendar holds": (f"{ONE} UPDATE conversations SET expires_at = 'infinity'", ["(far-time)"]),
    "a time before all others": (f"{ONE} UPDATE conversations SET updated_at = '-infinity'", ["(far-time)"]),
    "the last time that Python has": (f"{ONE} UPDATE conversations SET expires_at = '9999-12-31 23:59:59.9Z'", []),
    # Vacuum.
    "no autovacuum": ("ALTER TABLE conversations SET (autovacuum_enabled = off)", ["autovacuum-off"]),
}

OF_RIGHTS: Mapping[str, tuple[str, list[str]]] = {
    "all rights": (ALL_RIGHTS, []),
    "rights by columns": (
        f"""{ALL_RIGHTS} REVOKE UPDATE ON conversations FROM lapse_doctor_worker;
        GRANT UPDATE (status, version, policy_id, opened_by, updated_at, last_inbound_at, last_outbound_at,
            first_answered_at, ended_at, expires_at, idle_check_at, idle_timeout_seconds, hold_until, reminders_sent,
            reminded_at) ON conversations TO lapse_doctor_worker""",
        [],
    ),
    "no right": (WORKER, ["missing-privilege"]),
    "no schema": (
        f"{ALL_RIGHTS} REVOKE USAGE ON SCHEMA public FROM PUBLIC, lapse_doctor_worker",
        ["missing-privilege"],
    ),
    **{
        f"no {right} on {table}": (
            f"{ALL_RIGHTS} REVOKE {right} ON {table} FROM lapse_doctor_worker",
            ["missing-privilege"],
        )
        for table, rights in {
            "conversations": ["SELECT", "INSERT", "UPDATE"],
            "conversation_events": ["SELECT", "INSERT"],
            "message_receipts": ["SELECT", "DELETE"],
            "lapse_schema_version": ["SELECT"],
        }.items()
        for right in rights
    },
    "no policy": (f"{ALL_RIGHTS} DROP POLICY worker ON conversations", ["row-security"]),
    "no policy for the version": (
        f"{ALL_RIGHTS} DROP POLICY worker ON lapse_schema_version",
        ["row-security"],
    ),
    "policies of others": (
        f"""{ALL_RIGHTS} DROP POLICY worker ON conversation_events; CREATE ROLE lapse_doctor_other;
        CREATE POLICY others ON conversation_events TO lapse_doctor_other USING (true)""",
        ["row-security"],
    ),
    "a policy for one command": (
        f"""{ALL_RIGHTS} DROP POLICY worker ON conversations;
        CREATE POLICY seen ON conversations FOR SELECT USING (true)""",
        ["row-security"],
    ),
    "a policy for all": (
        f"""{ALL_RIGHTS} DROP POLICY worker ON conversations;
        CREATE POLICY worker ON conversations TO lapse_doctor_worker USING (true) WITH CHECK (true)""",
        [],
    ),
    "a policy by membership": (
        f"""{ALL_RIGHTS} DROP POLICY worker ON conversations; CREATE ROLE lapse_doctor_group;
        GRANT lapse_doctor_group TO lapse_doctor_worker;
        CREATE POLICY members ON conversations TO lapse_doctor_group USING (true)""",
        [],
    ),
    "a policy for some rows": (
        f"""{ALL_RIGHTS} DROP POLICY worker ON conversations;
        CREATE POLICY some_rows ON conversations USING (owner_id = 1)""",
        ["(row-security-filter)"],
    ),
    "a restrictive policy": (
        f"""{ALL_RIGHTS} DROP POLICY worker ON conversations;
        CREATE POLICY all_rows ON conversations USING (true);
        CREATE POLICY limits ON conversations AS RESTRICTIVE FOR SELECT USING (owner_id = 1)""",
        ["(row-security-filter)"],
    ),
}

OF_AN_OLD_TABLE: Mapping[str, tuple[str, list[str]]] = {
    "nothing": ("", []),
    "a stranger": (f"{WORKER} {AS_WORKER}", ["missing-privilege", "not-owner", "(sequence-privilege)"]),
    "an identity that a stranger may not draw": (
        f"""ALTER TABLE conversations ALTER conv_id DROP DEFAULT, ALTER conv_id ADD GENERATED ALWAYS AS IDENTITY;
        {WORKER} GRANT SELECT, INSERT, UPDATE ON conversations TO lapse_doctor_worker; {AS_WORKER}""",
        ["missing-privilege", "not-owner", "(sequence-privilege)"],
    ),
    "an id that nobody makes": (
        "ALTER TABLE conversations ALTER COLUMN conv_id DROP DEFAULT",
        ["(conv-id-without-default)"],
    ),
    "an id that lapse makes": (
        "ALTER TABLE conversations ALTER COLUMN conv_id DROP DEFAULT, ALTER COLUMN conv_id TYPE text",
        [],
    ),
    "forced row security": (
        """CREATE ROLE lapse_doctor_owner; ALTER TABLE conversations OWNER TO lapse_doctor_owner;
        ALTER TABLE conversations ENABLE ROW LEVEL SECURITY; ALTER TABLE conversations FORCE ROW LEVEL SECURITY""",
        ["forced-row-security"],
    ),
    "forced row security with a policy for the owner": (
        """CREATE ROLE lapse_doctor_owner; ALTER TABLE conversations OWNER TO lapse_doctor_owner;
        ALTER TABLE conversations ENABLE ROW LEVEL SECURITY; ALTER TABLE conversations FORCE ROW LEVEL SECURITY;
        CREATE POLICY own ON conversations TO lapse_doctor_owner USING (true)""",
        [],
    ),
    "another table of events": ("CREATE TABLE conversation_events (n int)", ["name-conflict"]),
    "a column of lapse's name": ("ALTER TABLE conversations ADD COLUMN lapse_version int", ["name-conflict"]),
    "a missing optional column": ("ALTER TABLE conversations DROP COLUMN channel, DROP COLUMN metadata", []),
    "a status that is missing in a CHECK": (
        "ALTER TABLE conversations ADD CHECK (status IN ('pending', 'progress', 'expired'))",
        ["status-check"],
    ),
    "a CHECK over varchar": (
        """ALTER TABLE conversations DROP CONSTRAINT conversations_status_check, ALTER COLUMN status TYPE varchar(20);
        ALTER TABLE conversations ADD CHECK (status IN ('pending', 'progress', 'agent_closed', 'support_closed',
            'user_closed', 'expired', 'failed'))""",
        ["status-check"],
    ),
    "an invalid index": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_conversations_expires'::regclass",
        ["invalid-index"],
    ),
}


def found(connection: psycopg.Connection[Any], faults: Mapping[str, tuple[str, list[str]]]) -> dict[str, list[str]]:
    """Return the codes found with each fault."""
    return {name: codes(with_fault(connection, fault)) for name, (fault, _) in faults.items()}


def expected(faults: Mapping[str, tuple[str, list[str]]], *always: str) -> dict[str, list[str]]:
    return {name: sorted([*wanted, *always]) for name, (_, wanted) in faults.items()}


def test_each_fault_in_lapses_own_tables_is_found(postgres_url: str) -> None:
    with connect(postgres_url) as connection:
        assert found(connection, OF_LAPSES_OWN) == expected(OF_LAPSES_OWN)


def test_each_right_that_a_role_lacks_is_found(postgres_url: str) -> None:
    faults = {name: (f"{fault}; {AS_WORKER}", wanted) for name, (fault, wanted) in OF_RIGHTS.items()}
    with connect(postgres_url) as connection:
        assert found(connection, faults) == expected(faults)


def test_each_fault_in_an_old_table_is_found_beside_that_it_is_not_adopted(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, Form(updated_at_trigger=False, messages=False))
        assert found(connection, OF_AN_OLD_TABLE) == expected(OF_AN_OLD_TABLE, "not-adopted")


def test_what_to_do_about_a_missing_index_mends_it(postgres_url: str) -> None:
    with connect(postgres_url) as connection, rolled_back(connection):
        ((before,),) = connection.execute(f"SELECT pg_get_indexdef('{UNIQUE}'::regclass)").fetchall()
        connection.execute(f"DROP INDEX {UNIQUE}")
        (finding,) = diagnose(connection).findings
        assert finding.hint.startswith("CREATE UNIQUE INDEX CONCURRENTLY")
        connection.execute(finding.hint.replace("CONCURRENTLY ", "").encode())
        assert diagnose(connection).findings == []
        assert connection.execute(f"SELECT pg_get_indexdef('{UNIQUE}'::regclass)").fetchall() == [(before,)]


def test_an_old_server_and_a_standby_are_found(postgres_url: str) -> None:
    with connect(postgres_url) as connection, rolled_back(connection):
        inspection = inspect_database(as_lapses(connection))
        old = replace(inspection.server, version="13.21", version_number=130021)
        standby = replace(inspection.server, is_standby=True, is_read_only=True)
        found = [
            [finding.code for finding in check_server(replace(inspection, server=server))]
            for server in (inspection.server, old, standby)
        ]
        assert found == [[], ["old-server"], ["read-only"]]
        assert replace(inspection, server=standby).traits == ["standby", "read-only"]


def test_dead_rows_and_what_holds_vacuum_back_are_found(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuum, "OLD_TRANSACTION", timedelta(0))
    rows = ONE.replace("'a::b'", "n::text").replace("generate_series(1, 1)", "generate_series(1, 11000) AS n")
    with connect(postgres_url) as writer:
        writer.execute("ALTER TABLE conversations SET (autovacuum_enabled = off)")
        writer.execute(rows.encode())
        writer.execute("DELETE FROM conversations")
    with connect(postgres_url) as connection, connect(postgres_url) as reader:
        assert codes(with_fault(connection, "")) == ["autovacuum-off", "dead-rows"]
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        seen = with_fault(connection, "")
        assert codes(seen) == ["autovacuum-off", "dead-rows", "vacuum-held-back"]
        (holder,) = [finding for finding in seen.findings if finding.code == "vacuum-held-back"]
        assert f"pg_terminate_backend({reader.info.backend_pid})" in holder.hint
        reader.execute("ROLLBACK")
        connection.execute("ALTER TABLE conversations RESET (autovacuum_enabled)")
        connection.execute("VACUUM conversations")
        assert codes(with_fault(connection, "")) == []
