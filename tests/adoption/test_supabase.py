"""With Supabase's default privileges lapse's tables are open to its own roles, and not to the API's public key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from alembic import command

from lapse import ConversationService, Database
from lapse.store.migrate import alembic_config
from lapse.store.operations.schema import head_version
from tests.adoption.adoption_helpers import adopt_until
from tests.adoption.dumps import dump_program, schema_of
from tests.adoption.legacy_table import Form, connect, create_legacy_table, fill
from tests.adoption.roles import Roles, own_roles
from tests.adoption.supabase import (
    API,
    ATTEMPTS,
    BESIDE_ADOPTED,
    OWN,
    RECEIPTS,
    SERVICE,
    give_by_default,
    may,
    supabase_roles,
)
from tests.adoption.test_rights import diagnose, error_codes, make_due, succeeds, use_the_whole_library, values
from tests.support.commands import error_line, run_here
from tests.support.require_program import missing

ALL = set(ATTEMPTS)


@pytest.fixture
def roles(empty_postgres_url: str) -> Iterator[Roles]:
    """Return Supabase's roles and lapse's, whose owner's tables are open to the API by default."""
    with supabase_roles(empty_postgres_url), own_roles(empty_postgres_url) as roles:
        roles.create("owner", "CREATEROLE")
        roles.run(f"GRANT CREATE ON SCHEMA public TO {roles.name('owner')}")
        give_by_default(roles, roles.name("owner"), "CURRENT_USER")
        yield roles


def migrate_to(url: str, version: str) -> None:
    with closing(Database(url)) as database:
        database.schema_transaction(lambda connection: command.upgrade(alembic_config(connection=connection), version))


def open_to_api(roles: Roles, tables: tuple[str, ...]) -> dict[tuple[str, str], set[str]]:
    found = {(role, table): may(roles.admin_url, role, table) for role in API for table in tables}
    return {where: rights for where, rights in found.items() if rights}


def everybody_works(roles: Roles) -> None:
    """Let application, worker and purger do what they are for."""
    use_the_whole_library(roles.url("application"))
    sweep(roles)
    roles.run("UPDATE conversations SET ended_at = now() - interval '100 days' WHERE status = 'agent_closed'")
    assert "deleted" in succeeds("purge", "--closed-before", "90", "--database-url", roles.url("purger"))
    for role in ("owner", "application", "worker"):
        assert error_codes(roles.url(role)) == set(), role


def sweep(roles: Roles) -> None:
    """Let one conversation be idle and one be past its expiry, and a worker end them."""
    ended = "SELECT count(*) FROM conversation_events WHERE actor = 'worker'"
    make_due(roles)
    (before,) = values(roles.admin_url, ended)
    succeeds("worker", "--once", "--database-url", roles.url("worker"))
    assert values(roles.admin_url, ended) == [before + 2]


def test_new_tables_are_closed_before_and_after_the_roles_are_made(roles: Roles) -> None:
    said = succeeds("migrate", "--database-url", roles.url("owner"))
    assert "closed to anon, authenticated, whom only default privileges let in" in said
    with closing(ConversationService(roles.url("owner"))) as service:
        conv_id = service.record_message(1, "+5511999990001", "+14155238886").conv_id
        service.close_conversation(conv_id, "agent_closed")
    assert open_to_api(roles, OWN) == {}
    assert [may(roles.admin_url, SERVICE, table) for table in OWN] == [ALL] * 4
    assert diagnose(roles.url("owner"))["findings"] == []
    roles.apply(roles.url("owner"), purger=True)
    assert open_to_api(roles, OWN) == {}
    everybody_works(roles)
    assert open_to_api(roles, OWN) == {}


def test_a_superuser_migrates_as_safely(roles: Roles) -> None:
    succeeds("migrate", "--database-url", roles.admin_url)
    assert open_to_api(roles, OWN) == {}
    assert error_codes(roles.admin_url) == set()


@pytest.mark.parametrize("has_roles", [True, False])
def test_tables_of_an_older_lapse_are_mended_and_its_roles_go_on(roles: Roles, *, has_roles: bool) -> None:
    owner = roles.url("owner")
    migrate_to(owner, "0003")
    if has_roles:
        as_then(roles)
    roles.run(
        "INSERT INTO conversations SELECT 1, gen_random_uuid(), 'whatsapp', 'a::b', 'a', 'b', NULL, 'pending', 1,"
        " now(), now(), NULL, NULL, now() + interval '1 day', now() + interval '1 hour', 1800",
        "INSERT INTO conversation_events SELECT owner_id, conv_id, 1, 'paused', 'pending', 'pending', NULL, NULL, NULL,"
        " now() FROM conversations",
    )
    older = tuple(table for table in OWN if table != RECEIPTS)
    assert open_to_api(roles, older) == {(role, table): ALL for role in API for table in older}
    assert {"exposed", "schema-behind"} == error_codes(owner)
    assert f"upgraded the schema from version 0003 to {head_version()}" in succeeds("migrate", "--database-url", owner)
    assert open_to_api(roles, OWN) == {}
    assert error_codes(owner) == set()
    if not has_roles:
        roles.apply(owner, purger=True)
    everybody_works(roles)
    roles.apply(owner, purger=True)
    everybody_works(roles)
    assert open_to_api(roles, OWN) == {}


def as_then(roles: Roles) -> None:
    """Give what roles.sql gave, policies apart: not every installation has run it."""
    for role in ("application", "worker", "purger"):
        roles.create(role)
    application, worker, purger = map(roles.name, ("application", "worker", "purger"))
    roles.run(
        f"GRANT SELECT, INSERT, UPDATE ON conversations TO {application}, {worker}",
        f"GRANT SELECT, INSERT ON conversation_events TO {application}, {worker}",
        f"GRANT SELECT, DELETE ON conversations, conversation_events TO {purger}",
        f"GRANT UPDATE (metadata) ON conversations TO {purger}",
        f"GRANT SELECT ON lapse_schema_version TO {application}, {worker}, {purger}",
    )


def test_an_upgrade_shuts_out_nobody_whom_default_privileges_let_in(roles: Roles) -> None:
    """As many set up their roles: one for migrations, and what it makes is the application's by default."""
    roles.create("application")
    roles.create("reader")
    application, reader = roles.name("application"), roles.name("reader")
    roles.run(f"CREATE ROLE {roles.prefix}_group NOLOGIN", f"GRANT {roles.prefix}_group TO {reader}")
    give_by_default(roles, roles.name("owner"), to=f"{application}, {roles.prefix}_group")
    migrate_to(roles.url("owner"), "0003")
    succeeds("migrate", "--database-url", roles.url("owner"))
    use_the_whole_library(roles.url("application"))
    succeeds("worker", "--once", "--database-url", roles.url("application"))
    assert values(roles.url("reader"), "SELECT count(*) > 0 FROM conversations") == [True]
    assert open_to_api(roles, OWN) == {}
    assert error_codes(roles.url("owner")) == error_codes(roles.url("application")) == set()


def test_a_role_that_no_program_logs_in_as_is_shut_out_whatever_its_name(roles: Roles) -> None:
    web = f"{roles.prefix}_web"
    roles.run(f"CREATE ROLE {web} NOLOGIN NOINHERIT")
    give_by_default(roles, roles.name("owner"), to=web)
    migrate_to(roles.url("owner"), "0003")
    roles.run("GRANT SELECT ON conversation_events TO PUBLIC")
    said = succeeds("migrate", "--database-url", roles.url("owner"))
    assert f"closed to PUBLIC, anon, authenticated, {web}, whom" in said
    assert [may(roles.admin_url, web, table) for table in OWN] == [set()] * 4


def test_who_wrote_policies_for_the_api_keeps_what_they_show(roles: Roles) -> None:
    owner = roles.url("owner")
    migrate_to(owner, "0003")
    roles.run(
        "ALTER TABLE conversations ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY of_tenant ON conversations FOR SELECT USING (owner_id = 1)",
        "CREATE POLICY of_signed_in ON conversation_events TO authenticated USING (owner_id = 1)",
    )
    succeeds("migrate", "--database-url", owner)
    with closing(ConversationService(owner)) as service:
        for owner_id in (1, 2):
            conv_id = service.record_message(owner_id, "+5511999990001", "+14155238886").conv_id
            service.close_conversation(conv_id, "agent_closed")
    seen = {}
    with connect(roles.admin_url) as connection:
        for role, table in ((role, table) for role in API for table in OWN[:2]):
            connection.execute("BEGIN")
            connection.execute(f"SET LOCAL ROLE {role}".encode())
            if may(roles.admin_url, role, table):
                seen[role, table] = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0]
            connection.execute("ROLLBACK")
    assert seen == {
        ("anon", "conversations"): 1,
        ("authenticated", "conversations"): 1,
        ("authenticated", "conversation_events"): 1,
    }
    assert not any(may(roles.admin_url, role, table) & {"TRUNCATE", "TRIGGER"} for role in API for table in OWN)
    assert error_codes(owner) == set()


@pytest.mark.parametrize("row_security", [True, False])
def test_an_adopted_table_stays_as_it_is_and_what_lapse_adds_is_closed(roles: Roles, *, row_security: bool) -> None:
    owner = old_table(roles, row_security=row_security)
    before = rights_to_conversations(roles)
    succeeds("adopt", "--database-url", owner)
    assert open_to_api(roles, BESIDE_ADOPTED) == {}
    roles.apply(owner, purger=True)
    write_as_the_api(roles)
    everybody_works_with_it(roles)
    assert rights_to_conversations(roles) == before
    assert open_to_api(roles, BESIDE_ADOPTED) == {}
    assert [may(roles.admin_url, SERVICE, table) for table in BESIDE_ADOPTED] == [ALL] * 4
    succeeds("unadopt", "--export", "events.csv", "--database-url", owner)
    assert rights_to_conversations(roles) == before
    write_as_the_api(roles)


def test_a_table_that_an_older_lapse_adopted_is_mended(roles: Roles) -> None:
    owner = old_table(roles)
    succeeds("adopt", "--database-url", owner)
    roles.apply(owner, purger=True)
    as_adopted_then(roles)
    before = rights_to_conversations(roles)
    older = tuple(table for table in BESIDE_ADOPTED if table != RECEIPTS)
    assert open_to_api(roles, older) == {(role, table): ALL for role in API for table in older}
    assert {"exposed", "schema-behind"} == error_codes(owner)
    line = error_line(run_here("adopt", "--database-url", owner), 1)
    wanted = f"The schema has version 0003, this lapse requires {head_version()}; nothing was changed: `lapse migrate`"
    assert wanted in line
    assert f"upgraded the schema from version 0003 to {head_version()}" in succeeds("migrate", "--database-url", owner)
    assert open_to_api(roles, BESIDE_ADOPTED) == {}
    assert rights_to_conversations(roles) == before
    assert "adopted" in succeeds("adopt", "--database-url", owner)
    write_as_the_api(roles)
    everybody_works_with_it(roles)
    succeeds("unadopt", "--export", "events.csv", "--database-url", owner)
    write_as_the_api(roles)


def test_an_adoption_that_an_older_lapse_began_is_closed_as_well(roles: Roles) -> None:
    owner = old_table(roles)
    adopt_until(owner, "vacuum", before=True)
    roles.run(*(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY" for table in SIDE), *given_again(SIDE))
    assert {"adoption-unfinished", "exposed"} == error_codes(owner)
    succeeds("adopt", "--database-url", owner)
    assert open_to_api(roles, BESIDE_ADOPTED) == {}


def test_giving_back_leaves_nothing_behind(roles: Roles, postgres: str) -> None:
    program = dump_program(int(postgres.removeprefix("postgresql-")))
    if program is None:
        missing(f"no pg_dump that reads {postgres}")
    owner = old_table(roles)
    before = schema_of(program, roles.admin_url)
    succeeds("adopt", "--database-url", owner)
    as_adopted_then(roles)
    succeeds("migrate", "--database-url", owner)
    succeeds("unadopt", "--export", "events.csv", "--database-url", owner)
    assert schema_of(program, roles.admin_url) == before


SINCE = (
    "policy_id",
    "opened_by",
    "last_outbound_at",
    "first_answered_at",
    "hold_until",
    "reminders_sent",
    "reminded_at",
)
"""The columns that version 0005 added."""
SIDE = ("conversation_events", "lapse_adoption")


def old_table(roles: Roles, *, row_security: bool = True) -> str:
    """Make the application's table, which the API's signed-in users write to; return the owner's URL."""
    owner, form = roles.url("owner"), Form(row_security=row_security, messages=False)
    with connect(owner) as connection:
        create_legacy_table(connection, form)
    with connect(roles.admin_url) as connection:
        fill(connection, 100, form, open_share=0.5)
    roles.run("CREATE POLICY of_signed_in ON conversations TO authenticated USING (true) WITH CHECK (true)")
    return owner


def as_adopted_then(roles: Roles) -> None:
    """Make it what lapse left behind before it closed anything, on a table without row level security."""
    older = tuple(table for table in BESIDE_ADOPTED if table != RECEIPTS)
    roles.run(
        "UPDATE lapse_schema_version SET version_num = '0003'",
        "DROP TABLE message_receipts",
        "DROP TRIGGER zz_lapse_update ON conversations",
        *(f"ALTER TABLE conversations DROP COLUMN {column}" for column in SINCE),
        "CREATE TRIGGER zz_lapse_update BEFORE UPDATE ON conversations FOR EACH ROW WHEN (NEW.session_key IS NULL) "
        "EXECUTE FUNCTION lapse_before_update()",
        "ALTER TABLE conversations ENABLE ALWAYS TRIGGER zz_lapse_update",
        "UPDATE lapse_adoption SET before = "
        f"jsonb_set(before, '{{columns}}', (before -> 'columns') - '{{{','.join(SINCE)}}}'::text[])",
        *(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY" for table in older),
        *given_again(older),
    )


def given_again(tables: tuple[str, ...]) -> list[str]:
    return [f"GRANT ALL ON {table} TO {', '.join((*API, SERVICE))}" for table in tables]


def rights_to_conversations(roles: Roles) -> list[object]:
    """Return whose rights the table has, but for those that roles.sql gives, and whether it has row level security."""
    with connect(roles.admin_url) as connection:
        found = connection.execute(
            """SELECT relrowsecurity,
                array(SELECT acl::text FROM unnest(relacl) AS acl WHERE acl::text !~ %s ORDER BY 1)
            FROM pg_class WHERE oid = 'conversations'::regclass""",
            [f"^{roles.prefix}_(application|worker|purger)="],
        )
        return found.fetchall()


def write_as_the_api(roles: Roles) -> None:
    """Open two conversations of one pair as a signed-in user."""
    with connect(roles.admin_url) as connection:
        connection.execute("SET ROLE authenticated")
        for _ in range(2):
            connection.execute("INSERT INTO conversations (owner_id, from_number, to_number) VALUES (999, '+1', '+2')")
        changed = connection.execute("UPDATE conversations SET context = '{}', updated_at = now() WHERE owner_id = 999")
        assert changed.rowcount >= 2


def everybody_works_with_it(roles: Roles) -> None:
    succeeds("worker", "--once", "--database-url", roles.url("worker"))
    use_the_whole_library(roles.url("application"))
    sweep(roles)
    succeeds("purge", "--closed-before", "90", "--database-url", roles.url("purger"))
    for role in ("owner", "application", "worker"):
        assert error_codes(roles.url(role)) == {"exposed"}, role  # of the application's table: the API may truncate it
    assert values(roles.admin_url, "SELECT count(*) FROM conversation_events WHERE owner_id = 999") == [1]
