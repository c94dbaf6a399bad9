"""Adopting again: after an interruption anywhere, after a duplicate that came late, and after somebody's changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lapse.adoption.plan import DUPLICATES, FUNCTIONS, UNIQUE, VACUUM, Step
from tests.adoption.adoption_helpers import (
    ENDED,
    LegacyConnection,
    RecordingReporter,
    adopt,
    adopt_until,
    error_codes,
    filled_table,
    remaining,
    values,
)
from tests.adoption.legacy_table import GUARDED, Form, connect, create_legacy_table, fill

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
def filled(empty_postgres_url: str) -> Iterator[LegacyConnection]:
    with connect(empty_postgres_url) as connection:
        yield filled_table(connection)


@pytest.mark.parametrize("form", [GUARDED, OWNS_VERSION], ids=str)
def test_an_adoption_goes_on_after_each_of_its_steps(empty_postgres_url: str, form: Form) -> None:
    with connect(empty_postgres_url) as connection:
        filled_table(connection, form)
        keys = [step.key for step in remaining(empty_postgres_url)]
        assert len(keys) == 16
        for place, key in enumerate(keys, start=1):
            adopt_until(empty_postgres_url, key)
            left = [step.key for step in remaining(empty_postgres_url)]
            assert [key for key in left if key not in REPEATED] == [key for key in keys[place:] if key not in REPEATED]
        assert remaining(empty_postgres_url) == []
        assert error_codes(empty_postgres_url) == []
        # Where a pair has an active and a paused one, the newest is the paused one.
        assert values(connection, "SELECT count(*) FROM conversation_events") == [ENDED]


def test_what_an_interrupted_build_left_behind_is_built_again(
    filled: LegacyConnection, empty_postgres_url: str
) -> None:
    adopt_until(empty_postgres_url, FUNCTIONS, before=True)
    filled.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_conversations_open_session'::regclass"
    )
    adopt(empty_postgres_url)
    assert error_codes(empty_postgres_url) == []
    assert values(filled, "SELECT to_regclass('ix_conversations_open_session')") == [None]


class Latecomer(RecordingReporter):
    """A transaction of the application's that opens a conversation before others end, and commits afterwards."""

    def __init__(self, application: LegacyConnection) -> None:
        super().__init__()
        self._application = application

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        if step.kind == FUNCTIONS:
            self._application.execute(
                """BEGIN; INSERT INTO conversations (owner_id, from_number, to_number)
                SELECT owner_id, from_number, to_number FROM conversations WHERE conv_id = (
                    SELECT max(conv_id) FROM conversations)"""
            )
        if step.kind == UNIQUE and not self.messages:
            threading.Timer(0.3, self._application.execute, ["COMMIT"]).start()
        with super().step(step):
            yield


def test_a_duplicate_that_comes_late_ends_too(filled: LegacyConnection, empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as application:
        progress = adopt(empty_postgres_url, progress=Latecomer(application))
    assert progress.messages == ["the unique index failed on a new duplicate: ending duplicates again"]
    assert progress.done.count(DUPLICATES) == 2
    assert error_codes(empty_postgres_url) == []
    assert values(filled, "SELECT count(*) FROM conversation_events") == [ENDED + 1]


def test_what_somebody_took_off_or_put_on_since_is_set_right(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection)
        fill(connection, 50)
        adopt(empty_postgres_url)
        for fault in FAULTS:
            connection.execute(fault.encode())
            assert adopt(empty_postgres_url).done, fault
            assert error_codes(empty_postgres_url) == [], fault
            assert adopt(empty_postgres_url).done == [], fault
