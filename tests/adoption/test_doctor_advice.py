"""What `lapse doctor` says to do mends what it found: the SQL is run as it is printed."""

from __future__ import annotations

from collections.abc import Mapping

from tests.adoption.examining import diagnose, rolled_back
from tests.adoption.installed_functions import Connection
from tests.adoption.legacy_table import GUARDED, connect, create_legacy_table
from tests.support.commands import run_here

WORKER = """CREATE ROLE lapse_doctor_worker; GRANT SELECT, INSERT, UPDATE ON conversations TO lapse_doctor_worker;
    GRANT SELECT, INSERT ON conversation_events TO lapse_doctor_worker;
    GRANT SELECT, DELETE ON message_receipts TO lapse_doctor_worker;
    GRANT SELECT ON lapse_schema_version TO lapse_doctor_worker;
    CREATE POLICY worker ON conversations TO lapse_doctor_worker USING (true) WITH CHECK (true);
    CREATE POLICY worker ON conversation_events TO lapse_doctor_worker USING (true) WITH CHECK (true);
    CREATE POLICY worker ON message_receipts TO lapse_doctor_worker USING (true) WITH CHECK (true);
    CREATE POLICY worker ON lapse_schema_version TO lapse_doctor_worker USING (true);"""
ROLE = "SET LOCAL ROLE lapse_doctor_worker"

IN_LAPSES_OWN: Mapping[str, str] = {
    "missing-column": "ALTER TABLE conversations DROP COLUMN last_inbound_at",
    "wrong-type": "ALTER TABLE conversations ALTER COLUMN expires_at TYPE timestamp",
    "missing-index": "DROP INDEX uq_conversations_open_session",
    "differing-index": "DROP INDEX ix_conversations_ended_at_closed; "
    "CREATE INDEX ix_conversations_ended_at_closed ON conversations (owner_id)",
    "primary-key": "ALTER TABLE conversations DROP CONSTRAINT pk_conversations",
    "missing-constraint": "ALTER TABLE conversations DROP CONSTRAINT ck_conversations_status",
    "activity-trigger": """CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN NEW.updated_at := now(); RETURN NEW; END';
        CREATE TRIGGER "touch it" BEFORE INSERT OR UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch()""",
    "activity-index": "CREATE INDEX activity ON conversations (updated_at)",
    "autovacuum-off": "ALTER TABLE conversation_events SET (autovacuum_enabled = false)",
    "missing-privilege": f"{WORKER} REVOKE UPDATE ON conversations FROM lapse_doctor_worker; {ROLE}",
    "row-security-missing": "ALTER TABLE lapse_schema_version DISABLE ROW LEVEL SECURITY",
    "row-security": f"{WORKER} DROP POLICY worker ON conversations; {ROLE}",
}
IN_AN_ADOPTED_TABLE: Mapping[str, str] = {
    "missing-index": "DROP INDEX ix_conversations_session_history_not_open",
    "missing-default": "ALTER TABLE conversations ALTER COLUMN idle_check_at DROP DEFAULT",
    "missing-constraint": "ALTER TABLE conversations DROP CONSTRAINT ck_conversations_session_key",
    "trigger-off": "ALTER TABLE conversations DISABLE TRIGGER zz_lapse_insert",
    "activity-trigger": "CREATE OR REPLACE TRIGGER set_updated_at BEFORE UPDATE ON conversations FOR EACH ROW "
    "EXECUTE FUNCTION set_updated_at()",
    "function-owner": "ALTER FUNCTION lapse_before_insert OWNER TO pg_monitor",
    "sequence-privilege": f"{WORKER} {ROLE}",
}


def test_what_to_do_in_lapses_own_tables_mends_them(postgres_url: str) -> None:
    with connect(postgres_url) as connection:
        for code, fault in IN_LAPSES_OWN.items():
            check_advice(connection, code, fault)


def test_what_to_do_in_an_adopted_table_mends_it(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, GUARDED)
        assert run_here("adopt", "--database-url", empty_postgres_url).returncode == 0
        for code, fault in IN_AN_ADOPTED_TABLE.items():
            check_advice(connection, code, fault)


def check_advice(connection: Connection, code: str, fault: str) -> None:
    """Plant the fault, do what is said, and find nothing any more; then undo all."""
    with rolled_back(connection):
        connection.execute(fault.encode())
        (found,) = diagnose(connection).findings
        assert found.code == code
        connection.execute("RESET ROLE")
        connection.execute(_sql(found.hint).encode())
        if ROLE in fault:
            connection.execute(ROLE.encode())
        assert diagnose(connection).findings == [], code


def _sql(advice: str) -> str:
    """Return the statements in it: not what is said before or after them; and CONCURRENTLY runs in no transaction."""
    begin = min(place for word in ("ALTER ", "CREATE ", "DROP ", "GRANT ") if (place := advice.find(word)) >= 0)
    return advice[begin : advice.rindex(";") + 1].partition("; or")[0].replace("CONCURRENTLY ", "")
