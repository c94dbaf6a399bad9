"""Tables that differ from the one of the specification: with less in them, or with more around them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lapse import ConversationService
from tests.adoption.dumps import dump_program, schema_of
from tests.adoption.legacy_application import BUSINESS
from tests.adoption.legacy_table import connect
from tests.adoption.snapshots import check_events
from tests.chaos.scale import is_full
from tests.conftest import SERVERS, NewDatabase
from tests.support.commands import run_here
from tests.support.require_program import missing

PAIRS = 50

LEAN = """
    CREATE TABLE conversations (
        conv_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        owner_id varchar(40) NOT NULL,
        from_number varchar(50) NOT NULL,
        to_number varchar(50) NOT NULL,
        status varchar(20) DEFAULT 'pending',
        started_at timestamptz DEFAULT now(),
        updated_at timestamptz DEFAULT now()
    );
    ALTER TABLE conversations SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
    ALTER TABLE conversations ALTER COLUMN status SET STATISTICS 500;
    ALTER TABLE conversations REPLICA IDENTITY FULL;
    ALTER TABLE conversations CLUSTER ON conversations_pkey;
    CREATE INDEX ON conversations (updated_at);
    CREATE STATISTICS by_owner ON owner_id, status FROM conversations;
    COMMENT ON TABLE conversations IS 'the application''s';
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN NEW.updated_at = CURRENT_TIMESTAMP; RETURN NEW; END';
    CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch();
    ALTER TABLE conversations ENABLE ALWAYS TRIGGER touch;
    CREATE TRIGGER switched_off BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch();
    ALTER TABLE conversations DISABLE TRIGGER switched_off;
    CREATE VIEW active AS SELECT * FROM conversations WHERE status IN ('pending', 'progress');
    CREATE RULE keeps AS ON DELETE TO conversations WHERE old.conv_id < 0 DO INSTEAD NOTHING;
    CREATE PUBLICATION changes FOR TABLE conversations;
    GRANT SELECT (conv_id), UPDATE (status) ON conversations TO pg_monitor"""
"""Without what may be missing, and with all that can be put on a table."""

STRICT = """
    CREATE TABLE conversations (
        conv_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        owner_id uuid NOT NULL,
        user_id uuid,
        from_number text NOT NULL,
        to_number text NOT NULL,
        status text NOT NULL DEFAULT 'pending',
        started_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        updated_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL DEFAULT now() + interval '1 day',
        channel text NOT NULL DEFAULT 'whatsapp',
        context jsonb NOT NULL DEFAULT '{}',
        metadata jsonb NOT NULL DEFAULT '{}',
        version int NOT NULL DEFAULT 1,
        idle_check_at text,
        EXCLUDE USING btree (conv_id WITH =)
    )"""
"""Nothing is NULL, and two names of lapse's are taken."""

TABLES = {"lean": (LEAN, "tenant-1"), "strict": (STRICT, "8f7c1a52-62a9-4f57-9a55-000000000001")}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take one table to one server, the other to the next; in a full run each to all."""
    names = list(metafunc.config.stash[SERVERS].by_name)
    turns = [
        (table, name)
        for place, table in enumerate(TABLES)
        for turn, name in enumerate(names)
        if is_full() or turn == place % len(names)
    ]
    metafunc.parametrize(("table", "server"), turns)


def test_another_table_moves_in_and_back_out(
    table: str, server: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    definition, owner = TABLES[table]
    url = new_database(server, migrated=False)
    program = dump_program(int(server.removeprefix("postgresql-")))
    with connect(url) as connection:
        connection.execute(definition.encode())
        connection.execute(
            """INSERT INTO conversations (owner_id, from_number, to_number)
            SELECT %s, '+55119' || lpad((n / 2)::text, 8, '0'), '+14155238886' FROM generate_series(0, %s) AS n""",
            [owner, 2 * PAIRS - 1],
        )
        schema = program and schema_of(program, url)
        _lapse(url, "adopt")
        events = check_events(connection)
        assert [event.reason for event in events] == ["duplicate_session"] * PAIRS
        _lapse(url, "doctor")
        _serve(url, owner)
        _lapse(url, "worker", "--once")
        check_events(connection)
        _lapse(url, "unadopt", "--export", str(tmp_path / "events.csv"))
    if program is None:
        missing(f"no pg_dump that reads {server}: the schema before and after was not compared")
    assert schema_of(program, url) == schema


def _lapse(url: str, *arguments: str) -> None:
    ended = run_here(*arguments, "--database-url", url)
    assert ended.returncode == 0, f"{arguments}: {ended.stdout}\n{ended.stderr}"


def _serve(url: str, owner: Any) -> None:
    """Open, go on with and close conversations by the library."""
    with closing(ConversationService(url)) as service:
        begun = service.record_message(owner, "+5511900001000", BUSINESS)
        known = service.record_message(owner, "+5511900000001", BUSINESS, sender="agent")
        assert (known.status, known.version) == ("progress", 1)
        assert service.close_conversation(begun.conv_id, "user_closed").ended_at is not None
        assert len(service.get_active_conversations(owner, limit=1_000)) == PAIRS
