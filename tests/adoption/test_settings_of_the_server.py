"""Whatever role, database or server have set, doctor and adoption do the same, or say what forbids it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from lapse.adoption.findings import Finding
from tests.adoption.adoption_helpers import filled_table, values
from tests.adoption.examining import codes, diagnose, rolled_back
from tests.adoption.legacy_table import Form, connect, create_legacy_table
from tests.support.commands import run_here

# None of these changes what lapse does; most change how the server prints or reads an expression, a name or a value.
HARMLESS: Mapping[str, Mapping[str, str]] = {
    "identifiers": {"quote_all_identifiers": "on"},
    "times": {"DateStyle": "SQL, DMY", "IntervalStyle": "iso_8601", "TimeZone": "America/Sao_Paulo"},
    "german times": {"DateStyle": "German", "IntervalStyle": "sql_standard", "TimeZone": "Asia/Kathmandu"},
    "texts": {"bytea_output": "escape", "extra_float_digits": "-15", "escape_string_warning": "on"},
    "reading": {"transform_null_equals": "on", "array_nulls": "off", "plan_cache_mode": "force_generic_plan"},
    "strings": {"standard_conforming_strings": "off", "backslash_quote": "off"},
    "messages": {"client_min_messages": "debug1", "lc_messages": "C", "log_min_messages": "error"},
    "a schema before": {"search_path": "app, public"},
    "the catalog last": {"search_path": "public, pg_temp, pg_catalog"},
}
FORM = Form(conv_id="uuid", session_key=True, unique_index=True)
OLD_DEFINITIONS = """
    SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'public.conversations'::regclass AND NOT tgisinternal
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'public.conversations'::regclass
    UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'public.conversations'::regclass
    UNION ALL SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = 'public.conversations'::regclass AND attnum > 0 AND NOT attisdropped
    ORDER BY 1"""


@contextmanager
def set_for_database(url: str, settings: Mapping[str, str]) -> Iterator[None]:
    """Let every new session of this database begin with these settings."""
    name = make_url(url).database
    with connect(url) as owner:
        owner.execute("CREATE SCHEMA IF NOT EXISTS app")
        for setting, value in settings.items():
            # A list of schemas is not one schema's name.
            text = value if setting == "search_path" else f"'{value}'"
            owner.execute(f'ALTER DATABASE "{name}" SET {setting} = {text}'.encode())
    try:
        yield
    finally:
        with connect(url, options="-c default_transaction_read_only=off") as owner:
            owner.execute(f'ALTER DATABASE "{name}" RESET ALL'.encode())


def examined(url: str) -> dict[str, Any]:
    result = run_here("doctor", "--json", "--database-url", url)
    assert result.returncode in (0, 1), result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def codes_of(found: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in found["findings"]]


def is_known(url: str, settings: Mapping[str, str]) -> bool:
    """Tell whether this server takes them: later ones have lost some values."""
    with connect(url) as connection:
        try:
            for setting, value in settings.items():
                connection.execute("SELECT set_config(%s, %s, false)", [setting, value])
        except psycopg.Error:
            return False
    return True


def test_a_healthy_database_stays_healthy_whatever_is_set(postgres_url: str) -> None:
    for name, settings in HARMLESS.items():
        if is_known(postgres_url, settings):
            with set_for_database(postgres_url, settings):
                found = examined(postgres_url)
            assert (found["kind"], found["findings"]) == ("own", []), name


def test_a_harmless_setting_changes_no_finding(empty_postgres_url: str) -> None:
    url = empty_postgres_url
    with connect(url) as owner:
        filled_table(owner, FORM)
        for stage in ("old", "adopted"):
            if stage == "adopted":
                assert run_here("adopt", "--database-url", url).returncode == 0
            plain = examined(url)
            for name, settings in HARMLESS.items():
                if is_known(url, settings):
                    with set_for_database(url, settings):
                        assert examined(url) == plain, (stage, name)


@pytest.mark.parametrize("name", ["identifiers", "times", "strings", "reading", "a schema before"])
def test_adopting_and_going_back_do_not_depend_on_what_is_set(
    empty_postgres_url: str, tmp_path: Path, name: str
) -> None:
    url, settings = empty_postgres_url, HARMLESS[name]
    with connect(url) as owner:
        if not is_known(url, settings):
            return
        filled_table(owner, FORM)
        before = values(owner, OLD_DEFINITIONS)
        with set_for_database(url, settings):
            adopted = run_here("adopt", "--database-url", url)
            assert adopted.returncode == 0, adopted
            again = run_here("adopt", "--database-url", url)
            assert again.stdout == "nothing to do: the table is adopted\n", again
        assert [found for found in examined(url)["findings"] if found["level"] == "error"] == []
        with set_for_database(url, settings):
            returned = run_here("unadopt", "--database-url", url, "--export", tmp_path / "events.csv")
            assert returned.returncode == 0, returned
        assert values(owner, OLD_DEFINITIONS) == before


# What goes against lapse: how it is set, and what doctor says of lapse's own tables.
HARMFUL: Mapping[str, tuple[Mapping[str, str], str, str]] = {
    "read only": ({"default_transaction_read_only": "on"}, "error", "read-only"),
    "no triggers": ({"session_replication_role": "replica"}, "error", "replication-role"),
    "another isolation": ({"default_transaction_isolation": "serializable"}, "warning", "isolation"),
    "a short statement": ({"statement_timeout": "900ms"}, "warning", "short-timeout"),
    "a short wait": ({"lock_timeout": "20ms"}, "warning", "short-timeout"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_the_hint_of_a_harmful_setting_mends_it(postgres_url: str, name: str) -> None:
    settings, level, code = HARMFUL[name]
    with set_for_database(postgres_url, settings):
        found = examined(postgres_url)
        (finding,) = found["findings"]
        assert (finding["level"], finding["code"], found["healthy"]) == (level, code, level == "warning")
        assert next(iter(settings)) in finding["message"]
        with connect(postgres_url, options="-c default_transaction_read_only=off") as owner:
            owner.execute(finding["hint"].encode())
        assert examined(postgres_url)["findings"] == []


def test_what_the_url_asks_for_is_taken_out_of_the_url(postgres_url: str) -> None:
    asked = make_url(postgres_url).update_query_dict({"options": "-c session_replication_role=replica"})
    (finding,) = examined(asked.render_as_string(hide_password=False))["findings"]
    assert finding["code"] == "replication-role"
    assert finding["hint"].startswith("Remove session_replication_role from `options` in DATABASE_URL")


def test_row_security_that_is_switched_off_is_found_where_policies_apply(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url, options="-c row_security=off") as connection, rolled_back(connection):
        create_legacy_table(connection, Form(updated_at_trigger=False, row_security=True, messages=False))
        assert "row-security-off" not in codes(diagnose(connection)), "to its owner no policy applies"
    with connect(empty_postgres_url, options="-c row_security=off") as connection, rolled_back(connection):
        create_legacy_table(connection, Form(updated_at_trigger=False, row_security=True, messages=False))
        connection.execute("CREATE POLICY everybody ON conversations USING (true)")
        connection.execute("CREATE ROLE lapse_doctor_worker")
        connection.execute("GRANT SELECT, INSERT, UPDATE ON conversations TO lapse_doctor_worker")
        connection.execute("SET LOCAL ROLE lapse_doctor_worker")
        found = diagnose(connection)
        assert "row-security-off" in codes(found)
        assert "(unknown)" not in codes(found), "the rows are looked at all the same"


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_another_encoding_than_utf_8_is_a_note_and_a_new_database_has_none(
    new_database: Callable[..., str], postgres: str, encoding: str
) -> None:
    url = new_database(postgres)
    name = make_url(url).database
    other = make_url(url).set(database=f"{name}_other").render_as_string(hide_password=False)
    with connect(url) as owner:
        try:
            owner.execute(
                f"CREATE DATABASE \"{name}_other\" TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'".encode()
            )
            found = encoding_of(other)
            assert [finding.level for finding in found] == ["warning"]
            assert encoding in found[0].message
            statement, _, _ = found[0].hint.partition("; (")
            owner.execute(statement.encode())
            assert (
                encoding_of(make_url(url).set(database=f"{name}_other_utf8").render_as_string(hide_password=False))
                == []
            )
        finally:
            for database in (f"{name}_other", f"{name}_other_utf8"):
                owner.execute(f'DROP DATABASE IF EXISTS "{database}"'.encode())


def encoding_of(url: str) -> list[Finding]:
    with connect(url) as connection, rolled_back(connection):
        return [finding for finding in diagnose(connection).findings if finding.code == "encoding"]
