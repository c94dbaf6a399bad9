"""`lapse doctor` on an adopted table: nothing is found on a clean one, and each planted fault is."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from lapse.store.table_mapping import VERSION_TABLE
from tests.adoption.examining import codes, with_fault
from tests.adoption.legacy_table import FORMS, GUARDED, Form, connect, create_legacy_table, fill
from tests.support.commands import run_here

ROW = """INSERT INTO conversations (owner_id, from_number, to_number, lapse_session_key, expires_at, status, channel)
    SELECT 1, 'a', 'b', 'a::b', NULL, 'pending', NULL FROM generate_series(1, {});"""
UNIQUE = "uq_conversations_open_session"

FAULTS: Mapping[str, tuple[str, list[str]]] = {
    "nothing": ("", []),
    "a row with NULLs": (ROW.format(1), ["(null-channel)", "(null-expires-at)"]),
    "an unfinished adoption": (
        f"DROP TABLE {VERSION_TABLE}; UPDATE lapse_adoption SET completed_at = NULL; "
        "DROP INDEX ix_conversations_expires_at_open",
        ["adoption-unfinished"],
    ),
    "an adoption that has no end": ("UPDATE lapse_adoption SET completed_at = NULL", ["adoption-unfinished"]),
    "a column": ("ALTER TABLE conversations DROP COLUMN last_inbound_at", ["missing-column"]),
    "a column of the application's": ("ALTER TABLE conversations DROP COLUMN metadata", ["missing-column"]),
    "a column that lapse needs": (
        "ALTER TABLE conversations DROP COLUMN updated_at",
        ["missing-column"],
    ),
    "a default": ("ALTER TABLE conversations ALTER COLUMN idle_check_at DROP DEFAULT", ["missing-default"]),
    "a type of the events": ("ALTER TABLE conversation_events ALTER conv_id TYPE text", ["wrong-type"]),
    "an index": (f"DROP INDEX {UNIQUE}", ["missing-index"]),
    "an index over the bare channel": (
        f"DROP INDEX {UNIQUE}; CREATE UNIQUE INDEX {UNIQUE} ON conversations (owner_id, channel, lapse_session_key) "
        "WHERE status IN ('pending', 'progress', 'idle_timeout')",
        ["differing-index"],
    ),
    "an id of varchar": (
        """ALTER TABLE messages DROP CONSTRAINT messages_conv_id_fkey; DROP TRIGGER aa_lapse_ended ON conversations;
        ALTER TABLE conversations ALTER conv_id DROP DEFAULT, ALTER conv_id TYPE varchar(26);
        ALTER TABLE conversation_events ALTER conv_id TYPE varchar(26);
        ALTER TABLE message_receipts ALTER conv_id TYPE varchar(26)""",
        ["missing-trigger"],
    ),
    "columns of varchar, whose indexes and constraints PostgreSQL spells otherwise": (
        """DROP TRIGGER aa_lapse_ended ON conversations; DROP TRIGGER zz_lapse_update ON conversations;
        ALTER TABLE conversations ALTER status TYPE varchar(20), ALTER channel TYPE varchar""",
        ["missing-trigger"],
    ),
    "duplicates": (
        f"DROP INDEX {UNIQUE}, idx_conversations_active_session; {ROW.format(3)}",
        ["(null-channel)", "(null-expires-at)", "duplicates", "missing-index"],
    ),
    "a constraint": ("ALTER TABLE conversations DROP CONSTRAINT ck_conversations_session_key", ["missing-constraint"]),
    "a trigger of lapse's": ("DROP TRIGGER zz_lapse_insert ON conversations", ["missing-trigger"]),
    "a trigger of lapse's that is off": ("ALTER TABLE conversations DISABLE TRIGGER aa_lapse_ended", ["trigger-off"]),
    "a trigger as it was before": (
        """CREATE OR REPLACE TRIGGER set_updated_at BEFORE UPDATE ON conversations FOR EACH ROW
        EXECUTE FUNCTION set_updated_at()""",
        ["activity-trigger"],
    ),
    "no row security of the events": (
        "ALTER TABLE conversation_events DISABLE ROW LEVEL SECURITY",
        ["(row-security-missing)"],
    ),
    "a function": ("DROP FUNCTION lapse_session_key", ["missing-function"]),
    "a table of another owner": (
        "CREATE ROLE lapse_doctor_owner; ALTER TABLE conversations OWNER TO lapse_doctor_owner",
        ["function-owner"],
    ),
    "a trigger of lapse's for replicas only": (
        "ALTER TABLE conversations ENABLE REPLICA TRIGGER zz_lapse_update",
        ["trigger-off"],
    ),
    "no events": ("DROP TABLE conversation_events", ["missing-table"]),
    "a worker that may do all but open conversations": (
        f"""CREATE ROLE lapse_doctor_worker; GRANT SELECT, INSERT, UPDATE ON conversations TO lapse_doctor_worker;
        GRANT SELECT, INSERT ON conversation_events TO lapse_doctor_worker;
        GRANT SELECT ON {VERSION_TABLE} TO lapse_doctor_worker;
        GRANT SELECT, DELETE ON message_receipts TO lapse_doctor_worker;
        CREATE POLICY worker ON message_receipts TO lapse_doctor_worker USING (true) WITH CHECK (true);
        CREATE POLICY worker ON conversation_events TO lapse_doctor_worker USING (true) WITH CHECK (true);
        CREATE POLICY worker ON {VERSION_TABLE} TO lapse_doctor_worker USING (true);
        SET LOCAL ROLE lapse_doctor_worker""",
        ["(sequence-privilege)"],
    ),
}


def adopt(url: str) -> None:
    result = run_here("adopt", "--database-url", url)
    assert result.returncode == 0, result


@pytest.mark.parametrize("form", FORMS[-2:], ids=str)
def test_nothing_but_what_lapse_copes_with_is_found_after_adoption(empty_postgres_url: str, form: Form) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, form)
        fill(connection, 300, form)
        adopt(empty_postgres_url)
        found = with_fault(connection, "")
    notes = ["(null-channel)", "(null-context)", "(null-expires-at)"]
    assert (found.kind, found.traits) == ("adopted", [])
    assert codes(found) == notes + (["(unknown-status)"] if form.extra_statuses else [])


def test_each_fault_in_an_adopted_table_is_found(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, GUARDED)
        adopt(empty_postgres_url)
        found = {name: codes(with_fault(connection, fault)) for name, (fault, _) in FAULTS.items()}
        assert found == {name: sorted(wanted) for name, (_, wanted) in FAULTS.items()}


def test_what_adoption_made_it_makes_again(empty_postgres_url: str) -> None:
    lost = {
        "missing-column": "ALTER TABLE conversations DROP COLUMN last_inbound_at",
        "missing-trigger": "DROP TRIGGER zz_lapse_update ON conversations",
        "missing-function": "DROP FUNCTION lapse_session_key",
        "activity-trigger": "CREATE OR REPLACE TRIGGER set_updated_at BEFORE UPDATE ON conversations FOR EACH ROW "
        "EXECUTE FUNCTION set_updated_at()",
    }
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, GUARDED)
        fill(connection, 300, GUARDED, is_dirty=False)
        adopt(empty_postgres_url)
        for code, loss in lost.items():
            connection.execute(loss.encode())
            (found, *_) = with_fault(connection, "").findings
            assert found.code == code
            if "then `lapse adopt`" in found.hint:
                connection.execute(found.hint.partition("; then")[0].encode())
            adopt(empty_postgres_url)
            assert with_fault(connection, "").findings == [], code
