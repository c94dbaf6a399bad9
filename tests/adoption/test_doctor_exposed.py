"""`lapse doctor` finds what tables are open to somebody whom nobody named; what it says to do closes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from lapse.store.table_mapping import VERSION_TABLE
from tests.adoption.examining import diagnose, rolled_back
from tests.adoption.legacy_table import PLAIN, connect, create_legacy_table
from tests.adoption.supabase import supabase_roles
from tests.database.test_partitions import block
from tests.support.commands import run_here

OFF = "ALTER TABLE {} DISABLE ROW LEVEL SECURITY"
ON = "ALTER TABLE conversations ENABLE ROW LEVEL SECURITY"
EVENTS_OFF = OFF.format("conversation_events")
# A role as any installation may have it, to which default privileges give every table.
WEB = """CREATE ROLE lapse_doctor_web {options}; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO lapse_doctor_web;
    GRANT SELECT ON {table} TO lapse_doctor_web; """

EXPOSED: dict[str, tuple[str, str]] = {
    "the history to everybody": (
        f"{EVENTS_OFF}; GRANT SELECT ON conversation_events TO PUBLIC",
        "PUBLIC can SELECT public.conversation_events",
    ),
    "a column of it": (
        f"{EVENTS_OFF}; GRANT SELECT (reason), UPDATE (reason) ON conversation_events TO anon",
        "anon can SELECT, UPDATE public.conversation_events",
    ),
    "everything to the API": (
        f"{EVENTS_OFF}; GRANT ALL ON conversation_events TO anon, authenticated, service_role",
        "anon, authenticated can SELECT, INSERT, UPDATE, DELETE, TRUNCATE public.conversation_events",
    ),
    "by a policy for everybody": (
        "CREATE POLICY open ON conversation_events FOR SELECT USING (true); GRANT ALL ON conversation_events TO anon; "
        "REVOKE TRUNCATE ON conversation_events FROM anon",
        "anon can SELECT public.conversation_events",
    ),
    "a policy for it, and row level security off": (
        f"{EVENTS_OFF}; CREATE POLICY of_tenant ON conversation_events TO anon USING (owner_id = 1); "
        "GRANT SELECT ON conversation_events TO anon",
        "anon can SELECT public.conversation_events",
    ),
    "what no policy binds": (
        "GRANT ALL ON conversation_events TO anon",
        "anon can TRUNCATE public.conversation_events",
    ),
    "the version": (
        f"{OFF.format(VERSION_TABLE)}; GRANT UPDATE ON {VERSION_TABLE} TO authenticated",
        f"authenticated can UPDATE public.{VERSION_TABLE}",
    ),
    "to a role that default privileges name": (
        WEB.format(options="NOLOGIN", table="conversation_events") + EVENTS_OFF,
        "lapse_doctor_web can SELECT public.conversation_events",
    ),
}
OF_LAPSES_OWN: dict[str, tuple[str, str]] = {
    "the conversations": (
        f"{OFF.format('conversations')}; GRANT SELECT, DELETE ON conversations TO anon",
        "anon can SELECT, DELETE public.conversations",
    ),
    "to a role that default privileges name, though it logs in": (
        WEB.format(options="LOGIN", table="conversations") + OFF.format("conversations"),
        "lapse_doctor_web can SELECT public.conversations",
    ),
}
OF_AN_ADOPTED_TABLE: dict[str, tuple[str, str]] = {
    "the conversations": (
        "GRANT SELECT, INSERT ON conversations TO anon, authenticated",
        "anon, authenticated can SELECT, INSERT public.conversations",
    ),
    "the conversations to a role that default privileges name": (
        WEB.format(options="NOLOGIN", table="conversations"),
        "lapse_doctor_web can SELECT public.conversations",
    ),
    "the conversations, which may be emptied": (
        f"{ON}; GRANT ALL ON conversations TO authenticated",
        "authenticated can TRUNCATE public.conversations",
    ),
    "what the adoption remembers": (
        f"{OFF.format('lapse_adoption')}; GRANT SELECT ON lapse_adoption TO anon",
        "anon can SELECT public.lapse_adoption",
    ),
}
NAMED = (
    "GRANT ALL ON conversation_events TO service_role",
    "GRANT SELECT ON conversation_events TO anon",  # which shows it no row
    "CREATE POLICY of_tenant ON conversation_events TO anon USING (true); GRANT SELECT ON conversation_events TO anon",
    f"CREATE ROLE lapse_doctor_reader; {EVENTS_OFF}; GRANT SELECT ON conversation_events TO lapse_doctor_reader",
)
NAMED_OF_AN_ADOPTED_TABLE = (
    WEB.format(options="LOGIN", table="conversations"),
    f"{ON}; GRANT SELECT, INSERT, UPDATE ON conversations TO authenticated; "
    "CREATE POLICY of_signed_in ON conversations TO authenticated USING (true)",
    f"{ON}; GRANT SELECT ON conversations TO anon; CREATE POLICY of_all ON conversations USING (true)",
)


@pytest.fixture
def own(postgres_url: str) -> Iterator[str]:
    with supabase_roles(postgres_url):
        yield postgres_url


@pytest.fixture
def adopted(empty_postgres_url: str) -> Iterator[str]:
    with supabase_roles(empty_postgres_url), connect(empty_postgres_url) as connection:
        create_legacy_table(connection, PLAIN)
        assert run_here("adopt", "--database-url", empty_postgres_url).returncode == 0
        yield empty_postgres_url


def test_lapses_own_tables_are_found_open(own: str) -> None:
    check(own, EXPOSED | OF_LAPSES_OWN, NAMED)


def test_partitions_of_lapses_tables_are_found_open(own: str) -> None:
    with connect(own) as connection, rolled_back(connection):
        connection.execute(block("sql").encode())
        assert diagnose(connection).is_healthy
        connection.execute("GRANT ALL ON conversations_3 TO anon, authenticated")
        (found,) = diagnose(connection).findings
        assert found.message.startswith("anon, authenticated can TRUNCATE public.conversations_3, ")
        connection.execute("ALTER TABLE conversations_3 DISABLE ROW LEVEL SECURITY")
        (found,) = diagnose(connection).findings
        assert found.message.startswith("anon, authenticated can SELECT, INSERT, UPDATE, DELETE, TRUNCATE public.conv")
        connection.execute(found.hint.encode())
        assert diagnose(connection).is_healthy


def test_an_adopted_table_and_what_is_beside_it_are_found_open(adopted: str) -> None:
    check(adopted, EXPOSED | OF_AN_ADOPTED_TABLE, (*NAMED, *NAMED_OF_AN_ADOPTED_TABLE))


def check(url: str, exposed: Mapping[str, tuple[str, str]], named: tuple[str, ...]) -> None:
    """Plant each fault, follow the hint, and find it no more; what somebody wants is no error."""
    with connect(url) as connection:
        for name, (fault, what) in exposed.items():
            with rolled_back(connection):
                connection.execute(fault.encode())
                (found,) = (found for found in diagnose(connection).findings if found.level == "error")
                assert (found.code, found.message.partition(", by default")[0]) == ("exposed", what), name
                connection.execute(found.hint.partition(" or, ")[0].encode())
                assert diagnose(connection).is_healthy, name
        for wanted in named:
            with rolled_back(connection):
                connection.execute(wanted.encode())
                assert diagnose(connection).is_healthy, wanted
