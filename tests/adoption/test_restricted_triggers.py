"""The application's triggers that set `updated_at` leave lapse's bookkeeping out, and come back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from lapse.adoption.catalog import Trigger
from lapse.adoption.names import LAPSE_TRIGGERS, Names
from lapse.adoption.updated_at_triggers import (
    full_definition,
    insert_part,
    is_restricted,
    restore_statements,
    restrict_statements,
    touches_updated_at,
)
from tests.adoption.dumps import dump_program, schema_of
from tests.adoption.installed_functions import Connection, columns_and_events, install, run, table_of
from tests.adoption.legacy_table import Form, connect, create_legacy_table

NO_TRIGGER = Form(updated_at_trigger=False, extra_columns=('"a OR ""b" text', "touched text"))
TOUCH = """
    CREATE SCHEMA "Own ""Things";
    CREATE FUNCTION "Own ""Things"."Touch(" () RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN NEW.updated_at := ''2020-01-01''; NEW.touched := TG_ARGV[0]; RETURN NEW; END';
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN NEW.updated_at := ''2020-01-01''; RETURN NEW; END'"""
BOOKKEEPING = ("session_key = 'x'", "version = 7", "idle_check_at = '2026-01-01'", "idle_timeout_seconds = 7")


@dataclass
class LegacyTable:
    """The legacy table with lapse's columns, and no trigger of lapse's."""

    connection: Connection
    url: str
    names: Names

    def trigger(self, name: str) -> Trigger:
        return table_of(self.connection).triggers[name]

    def is_touched_by(self, change: str) -> bool:
        """Tell whether an update of a fresh row fires a trigger that sets `updated_at` to New Year of 2020."""
        return self._touched(
            f"""WITH fresh AS (SELECT conv_id FROM conversations LIMIT 1)
            UPDATE conversations AS c SET {change} FROM fresh WHERE c.conv_id = fresh.conv_id RETURNING c.updated_at"""
        )

    def is_touched_on_insert(self) -> bool:
        return self._touched("INSERT INTO conversations (owner_id, from_number, to_number) VALUES (1, 'a', 'b')")

    def _touched(self, statement: str) -> bool:
        run(self.connection, "DELETE FROM conversations")
        if not statement.startswith("INSERT"):
            run(self.connection, "SET session_replication_role = replica")
            run(self.connection, "INSERT INTO conversations (owner_id, from_number, to_number) VALUES (1, 'a', 'b')")
            run(self.connection, "SET session_replication_role = origin")
        run(self.connection, statement)
        [found] = self.connection.execute("SELECT updated_at < '2021-01-01' FROM conversations")
        return bool(found[0])


@pytest.fixture
def legacy(empty_postgres_url: str) -> Iterator[LegacyTable]:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, NO_TRIGGER)
        names = Names()
        run(connection, *columns_and_events(names, table_of(connection)), TOUCH)
        yield LegacyTable(connection, empty_postgres_url, names)


def test_an_update_of_lapses_own_columns_is_not_activity(legacy: LegacyTable) -> None:
    run(
        legacy.connection,
        "CREATE TRIGGER touch BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    assert all(legacy.is_touched_by(change) for change in BOOKKEEPING)
    run(legacy.connection, *restrict_statements(legacy.trigger("touch"), legacy.names))
    assert [change for change in BOOKKEEPING if legacy.is_touched_by(change)] == []
    assert legacy.is_touched_by("status = 'progress'")
    assert legacy.is_touched_by("updated_at = now()")
    assert legacy.is_touched_by("session_key = session_key")
    assert not legacy.is_touched_on_insert()


ODD = '"an ""odd"" EXECUTE FUNCTION name() OR WHEN ("'
COLUMNS = 'status, "a OR ""b"'
OWN_TOUCH = '"Own ""Things"."Touch("'
TRIGGERS = {
    "plain": ("BEFORE UPDATE", "touch()", "ENABLE"),
    "always": ("BEFORE UPDATE", "touch()", "ENABLE ALWAYS"),
    "on_replicas": ("BEFORE UPDATE", "touch()", "ENABLE REPLICA"),
    "off": ("BEFORE UPDATE", "touch()", "DISABLE"),
    "of_columns": (f"BEFORE UPDATE OF {COLUMNS}", "touch()", "ENABLE"),
    "with_a_condition": (
        "BEFORE UPDATE",
        "touch()",
        "ENABLE",
        "WHEN (OLD.status <> ') EXECUTE FUNCTION it''s(' OR OLD.* IS DISTINCT FROM NEW.*)",
    ),
    "with_arguments": ("BEFORE UPDATE", rf"{OWN_TOUCH}('it''s, (', E'\\', '1')", "ENABLE"),
    ODD: ("BEFORE UPDATE", f"{OWN_TOUCH}()", "ENABLE ALWAYS"),
    "on_insert_too": ("BEFORE INSERT OR UPDATE", "touch()", "DISABLE"),
    f"{'x' * 61}\xe9": ("BEFORE INSERT OR UPDATE", "touch()", "ENABLE"),
    f'{ODD[:-1]} too"': (
        f"BEFORE INSERT OR DELETE OR UPDATE OF {COLUMNS}",
        "touch()",
        "ENABLE REPLICA",
        "WHEN (1 = 1)",
    ),
}


def test_a_trigger_comes_back_as_it_was(legacy: LegacyTable, postgres: str) -> None:
    program = dump_program(int(postgres.rpartition("-")[2]))
    if program is None:
        pytest.skip("no pg_dump that can read this server")
    for name, (events, function, state, *condition) in TRIGGERS.items():
        run(
            legacy.connection,
            f"""CREATE TRIGGER {name} {events} ON conversations FOR EACH ROW {" ".join(condition)}
            EXECUTE FUNCTION {function};
            ALTER TABLE conversations {state} TRIGGER {name};
            COMMENT ON TRIGGER {name} ON conversations IS 'ours'""",
        )
    before, dumped = table_of(legacy.connection).triggers, schema_of(program, legacy.url)
    assert len(before) == len(TRIGGERS)
    assert all(touches_updated_at(trigger) and not is_restricted(trigger, legacy.names) for trigger in before.values())

    for trigger in before.values():
        run(legacy.connection, *restrict_statements(trigger, legacy.names))
    after = table_of(legacy.connection).triggers
    assert set(after) == {*before, *(insert_part(name) for name, trigger in before.items() if trigger.on_insert)}
    for name, trigger in before.items():
        assert is_restricted(after[name], legacy.names)
        assert (after[name].on_update, after[name].on_insert) == (True, False)
        assert after[name].enabled == trigger.enabled
        if trigger.on_insert:
            assert after[insert_part(name)].enabled == trigger.enabled
    # In a session that finds nothing without its schema.
    run(legacy.connection, "SET search_path = ''")
    for trigger in before.values():
        run(legacy.connection, *restore_statements(full_definition(trigger), trigger.enabled))
    assert schema_of(program, legacy.url) == dumped


def test_a_trigger_for_inserts_and_updates_goes_on_doing_both(legacy: LegacyTable) -> None:
    run(
        legacy.connection,
        "CREATE TRIGGER touch BEFORE INSERT OR UPDATE OF status, version ON conversations FOR EACH ROW "
        "WHEN (NEW.from_number = 'a') EXECUTE FUNCTION touch()",
    )
    run(legacy.connection, *restrict_statements(legacy.trigger("touch"), legacy.names))
    assert legacy.is_touched_on_insert()
    assert legacy.is_touched_by("status = 'progress'")
    assert not legacy.is_touched_by("context = NULL")
    assert not legacy.is_touched_by("status = 'progress', from_number = 'c'")
    assert not legacy.is_touched_by("status = 'expired', version = 1")


def test_the_extension_for_such_triggers_is_restricted_with_its_argument(legacy: LegacyTable) -> None:
    try:
        run(legacy.connection, "CREATE EXTENSION moddatetime")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server has no extension moddatetime")
    run(
        legacy.connection,
        """CREATE TRIGGER touch BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION moddatetime(updated_at);
        INSERT INTO conversations (owner_id, from_number, to_number, updated_at) VALUES (1, 'a', 'b', '2020-01-01')""",
    )
    assert touches_updated_at(legacy.trigger("touch"))
    run(legacy.connection, *restrict_statements(legacy.trigger("touch"), legacy.names))
    for change, is_touched in (("version = 1", False), ("status = 'progress'", True)):
        [found] = legacy.connection.execute(f"UPDATE conversations SET {change} RETURNING updated_at > '2021-01-01'")
        assert found == (is_touched,)


def test_only_triggers_that_may_set_updated_at_are_meant(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        names = install(connection, Form(extra_columns=("touched text",)))
        run(
            connection,
            TOUCH,
            """CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN NEW.last_updated_at_of := NEW.updated_at_all; RETURN NEW; END'""",
            *(
                f"CREATE TRIGGER {name} {events} ON conversations FOR EACH {each} EXECUTE FUNCTION {function}()"
                for name, events, each, function in (
                    ("on_insert", "BEFORE INSERT", "ROW", "touch"),
                    ("after", "AFTER UPDATE", "ROW", "touch"),
                    ("of_statements", "BEFORE UPDATE", "STATEMENT", "touch"),
                    ("of_others", "BEFORE UPDATE", "ROW", "other"),
                    ("meant", "BEFORE UPDATE", "ROW", "touch"),
                )
            ),
        )
        triggers = table_of(connection).triggers
        assert [name for name, trigger in triggers.items() if touches_updated_at(trigger)] == [
            "meant",
            "set_updated_at",
        ]
        assert set(LAPSE_TRIGGERS) < set(triggers)
        assert is_restricted(triggers["set_updated_at"], names)
        assert not is_restricted(triggers["meant"], names)
