"""Going back: the history is in a file, the application is refused nothing on the way, and the schema is as it was."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from psycopg import sql

from lapse.adoption.adopt import Adoption
from lapse.adoption.plan import Step
from lapse.adoption.revert import Revert
from lapse.errors import AdoptionError
from lapse.store import Database
from lapse.store.connection import Connection
from tests.adoption.adoption_helpers import (
    ENDED,
    Killed,
    LegacyConnection,
    RecordingReporter,
    adopt,
    error_codes,
    filled_table,
    values,
)
from tests.adoption.dumps import dump_program, schema_of
from tests.adoption.legacy_table import GUARDED, connect, create_legacy_table
from tests.support.commands import error_line, run_here
from tests.support.require_program import missing

FILE = Path("events.csv")


class LegacyTable:
    """The legacy table, adopted, and what its schema was before."""

    def __init__(self, url: str, connection: LegacyConnection, program: Path) -> None:
        self.url = url
        self.connection = connection
        self._program = program
        self.schema = self.dump()

    def dump(self) -> str:
        return schema_of(self._program, self.url)


@pytest.fixture
def legacy(empty_postgres_url: str, postgres: str) -> Iterator[LegacyTable]:
    program = dump_program(int(postgres.removeprefix("postgresql-")))
    if program is None:
        missing(f"no pg_dump that reads {postgres}")
    with connect(empty_postgres_url) as connection:
        filled_table(connection, GUARDED)
        legacy = LegacyTable(empty_postgres_url, connection, program)
        adopt(empty_postgres_url)
        yield legacy


def unadopt(url: str, progress: RecordingReporter | None = None, *, force: bool = False) -> RecordingReporter:
    """Revert the adoption; return the reporter."""
    progress = progress or RecordingReporter()

    def work(connection: Connection) -> None:
        adoption = Adoption(store=connection, idle_timeout_seconds=1_800)
        Revert(adoption=adoption, file=FILE, force=force).run(progress)

    with closing(Database(url)) as database:
        database.autocommit(work, retry=False)
    return progress


def exported(file: Path = FILE) -> list[dict[str, str]]:
    """Return the events in a file."""
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def add_event(connection: LegacyConnection, conv_id: int) -> None:
    """Write an event as a worker does."""
    connection.execute(
        """INSERT INTO conversation_events (owner_id, conv_id, version, type, from_status, to_status, occurred_at)
        VALUES (1, %s, 9, 'expired', 'progress', 'expired', now())""",
        [conv_id],
    )


def test_the_history_goes_into_a_file_and_the_schema_is_as_it_was(legacy: LegacyTable) -> None:
    events = values(legacy.connection, "SELECT owner_id, conv_id, version, data ->> 'kept' FROM conversation_events")
    gone = run_here("unadopt", "--database-url", legacy.url)
    assert gone.returncode == 0, gone
    (file,) = Path().iterdir()
    assert file.name.startswith("conversation_events-")
    assert f"{ENDED:,} events are in {file.name}" in gone.stdout
    lines = exported(file)
    assert len(lines) == len(events) == ENDED
    assert {int(line["conv_id"]) for line in lines} == {conv_id for _, conv_id, _, _ in events}
    assert {(line["reason"], line["actor"]) for line in lines} == {("duplicate_session", "adopt")}
    assert legacy.dump() == legacy.schema
    assert "no adoption to revert" in error_line(run_here("unadopt", "--database-url", legacy.url), 1)


def test_it_can_be_adopted_again(legacy: LegacyTable) -> None:
    unadopt(legacy.url)
    adopt(legacy.url)
    assert error_codes(legacy.url) == []
    assert values(legacy.connection, "SELECT count(*) FROM conversation_events") == [0]
    FILE.unlink()
    unadopt(legacy.url)
    assert legacy.dump() == legacy.schema


# --- stops --------------------------------------------------------------------------------------------------------


class Killer(RecordingReporter):
    """A reporter that ends it after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        with super().step(step):
            yield
        if len(self.done) == self._steps:
            raise Killed


def test_it_goes_on_after_each_of_its_steps_with_the_same_file(legacy: LegacyTable) -> None:
    for steps in range(1, 11):
        try:
            unadopt(legacy.url, Killer(steps))
        except Killed:
            # Half-way, the application works, and lapse does not.
            assert steps < 11
            insert_twice(legacy.connection, steps)
            assert "lapse adopt" in error_line(run_here("migrate", "--database-url", legacy.url), 1)
            continue
        break
    assert values(legacy.connection, "SELECT to_regclass('conversation_events')") == [None]
    assert legacy.dump() == legacy.schema
    assert len(exported()) >= ENDED


def insert_twice(connection: LegacyConnection, number: int) -> None:
    """Open two conversations of a pair, as the application may that pauses the first."""
    for status in ("idle_timeout", "progress"):
        connection.execute(
            "INSERT INTO conversations (owner_id, from_number, to_number, status) VALUES (1, %s, '+14155238886', %s)",
            [f"+55219000000{number:02}", status],
        )


def test_after_an_incomplete_revert_the_table_may_be_adopted_again(legacy: LegacyTable) -> None:
    with pytest.raises(Killed):
        unadopt(legacy.url, Killer(4))
    assert "adoption-unfinished" in error_codes(legacy.url)
    assert adopt(legacy.url).done
    assert error_codes(legacy.url) == []


class Worker(RecordingReporter):
    """Somebody who writes an event once the history is in the file."""

    def __init__(self, connection: LegacyConnection) -> None:
        super().__init__()
        self._connection = connection

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        with super().step(step):
            yield
        if FILE.exists() and not self.messages:
            add_event(self._connection, 1_000 + len(self.done))


def test_an_event_that_comes_after_the_export_is_not_lost(legacy: LegacyTable) -> None:
    progress = unadopt(legacy.url, Worker(legacy.connection))
    assert progress.messages == ["events were written after the export: exporting again"]
    assert len(exported()) == ENDED + 1
    assert legacy.dump() == legacy.schema


def test_as_many_events_as_in_the_file_may_be_others(legacy: LegacyTable) -> None:
    class Purger(Worker):
        @contextmanager
        def step(self, step: Step) -> Iterator[None]:
            with super().step(step):
                yield
            if FILE.exists() and not self.messages:
                legacy.connection.execute(
                    "DELETE FROM conversation_events WHERE conv_id = (SELECT min(conv_id) FROM conversation_events)"
                )

    assert unadopt(legacy.url, Purger(legacy.connection)).messages == [
        "events were written after the export: exporting again"
    ]
    assert "9" in {line["version"] for line in exported()}


# --- who is in the way --------------------------------------------------------------------------------------------


def test_while_lapse_is_connected_nothing_is_reverted_unless_it_is_forced(legacy: LegacyTable) -> None:
    adopted = legacy.dump()
    with closing(Database(legacy.url)) as database:
        database.autocommit(lambda connection: None)
        line = error_line(run_here("unadopt", "--database-url", legacy.url), 1)
        assert "lapse is still connected (pid " in line
        assert legacy.dump() == adopted
        assert list(Path().iterdir()) == []
        assert run_here("unadopt", "--force", "--database-url", legacy.url).returncode == 0
    assert legacy.dump() == legacy.schema


def test_a_history_that_is_gone_is_missed_unless_it_is_forced(legacy: LegacyTable) -> None:
    legacy.connection.execute("DROP TABLE conversation_events")
    assert "is missing" in error_line(run_here("unadopt", "--export", FILE, "--database-url", legacy.url), 1)
    gone = run_here("unadopt", "--export", FILE, "--force", "--database-url", legacy.url)
    assert "there was no history" in gone.stdout
    assert not FILE.exists()
    assert legacy.dump() == legacy.schema


def test_what_depends_on_a_column_of_lapse_is_named(legacy: LegacyTable) -> None:
    legacy.connection.execute("CREATE VIEW looks AS SELECT conv_id, idle_check_at FROM conversations")
    with pytest.raises(AdoptionError, match="view looks depends on column idle_check_at"):
        unadopt(legacy.url)
    insert_twice(legacy.connection, 50)
    legacy.connection.execute("DROP VIEW looks")
    unadopt(legacy.url)
    assert legacy.dump() == legacy.schema


@pytest.mark.parametrize("is_dropped", [True, False])
def test_a_trigger_that_the_application_changed_since_stays_as_it_is(legacy: LegacyTable, is_dropped: bool) -> None:
    change = sql.SQL("DROP TRIGGER set_updated_at ON conversations")
    if not is_dropped:
        change = sql.SQL(
            "CREATE OR REPLACE TRIGGER set_updated_at BEFORE UPDATE OF status ON conversations FOR EACH ROW "
            "EXECUTE FUNCTION set_updated_at()"
        )
    legacy.connection.execute(change)
    unadopt(legacy.url)
    found = values(legacy.connection, "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal")
    assert len(found) == (0 if is_dropped else 1)
    assert all("UPDATE OF status" in definition for definition in found)


def test_a_trigger_is_restored_whatever_the_search_path_of_who_goes_back(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection)
        connection.execute("CREATE SCHEMA tools; ALTER FUNCTION set_updated_at SET SCHEMA tools")
        (name,) = values(connection, "SELECT current_database()")
        connection.execute(f'ALTER DATABASE "{name}" SET search_path = public, tools'.encode())
        adopt(empty_postgres_url)
        connection.execute(f'ALTER DATABASE "{name}" RESET search_path'.encode())
        unadopt(empty_postgres_url)
        (definition,) = values(connection, "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal")
        assert definition.endswith(
            "BEFORE UPDATE ON public.conversations FOR EACH ROW EXECUTE FUNCTION tools.set_updated_at()"
        )
