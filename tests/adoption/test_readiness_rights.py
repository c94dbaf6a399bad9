"""`/readyz` says whether the worker's role may do a worker's work, on lapse's own tables and on an adopted one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from lapse import ConversationService
from lapse.http import WorkerApp
from tests.adoption.legacy_table import Form, connect, create_legacy_table
from tests.adoption.roles import Roles, own_roles
from tests.support.commands import run_here, run_lapse
from tests.support.http_client import ask
from tests.support.workers import worker_on

# A column of the application's has the name of one of lapse's, which is `lapse_version` then.
FORM = Form(row_security=True, extra_columns=("version text", "secret text"))
TABLES = ("conversations", "conversation_events", "lapse_schema_version")
READ = "ctid, owner_id, conv_id, started_at, updated_at, expires_at, status, {0}version, ended_at, idle_check_at, {1}"
WRITTEN = "status, {0}version, ended_at, idle_check_at, {1}"


@pytest.fixture(params=["own", "adopted"])
def roles(request: pytest.FixtureRequest, empty_postgres_url: str) -> Iterator[Roles]:
    """Return the roles of deploy/postgres/roles.sql, beside either kind of table."""
    with own_roles(empty_postgres_url) as roles:
        if request.param == "adopted":
            with connect(empty_postgres_url) as connection:
                create_legacy_table(connection, FORM)
        command = {"own": "migrate", "adopted": "adopt"}[request.param]
        assert run_here(command, "--database-url", empty_postgres_url).returncode == 0
        roles.apply()
        yield roles


def probe(roles: Roles) -> tuple[int, str]:
    with worker_on(roles.url("worker")) as worker:
        return ask(WorkerApp(worker), "/readyz")


def said(roles: Roles, lacking: str) -> tuple[int, str]:
    return 503, f"not ready: role {roles.name('worker')} may not {lacking}: run `lapse doctor`\n"


def test_the_scripts_worker_is_ready(roles: Roles) -> None:
    assert probe(roles) == (200, "ready: the database answers and has the right schema\n")


@pytest.mark.parametrize(
    ("right", "table"),
    [
        ("SELECT", "conversations"),
        ("UPDATE", "conversations"),
        ("SELECT", "conversation_events"),
        ("INSERT", "conversation_events"),
    ],
)
def test_each_right_that_is_missing_is_named(roles: Roles, right: str, table: str) -> None:
    roles.run(f"REVOKE {right} ON {table} FROM {roles.name('worker')}")
    assert probe(roles) == said(roles, f"{right} {table}")


def test_a_role_that_may_only_read_is_not_ready(roles: Roles) -> None:
    worker = roles.name("worker")
    for table in TABLES[:2]:
        roles.run(f"REVOKE ALL ON {table} FROM {worker}", f"GRANT SELECT ON {table} TO {worker}")
    assert probe(roles) == said(roles, "UPDATE conversations, INSERT conversation_events")


def test_a_grant_of_the_columns_that_a_worker_writes_is_enough(roles: Roles) -> None:
    worker = roles.name("worker")
    with connect(roles.admin_url) as connection:
        columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'conversations'::regclass AND attnum > 0"
        names = {name for (name,) in connection.execute(columns).fetchall()}
    renamed = ("lapse_" if "lapse_version" in names else "", "idle_timeout_seconds")
    read, written = READ.format(*renamed), WRITTEN.format(*renamed)
    roles.run(
        f"REVOKE ALL ON conversations FROM {worker}",
        f"GRANT SELECT ({read}), UPDATE ({written}) ON conversations TO {worker}",
    )
    assert probe(roles)[0] == 200
    # The columns that are looked at are those that a worker needs: with them it ends what is due.
    add_due(roles)
    result = run_lapse("worker", "--once", "--database-url", roles.url("worker"))
    assert (result.returncode, result.stderr) == (0, ""), result
    with connect(roles.admin_url) as connection:
        ended = connection.execute("SELECT status FROM conversations ORDER BY status").fetchall()
    assert ended == [("expired",), ("idle_timeout",)]
    for right, column, name in (("UPDATE", "ended_at", "what is written"), ("SELECT", "ctid", "where a row is")):
        roles.run(f"REVOKE {right} ({column}) ON conversations FROM {worker}")
        assert probe(roles) == said(roles, f"{right} conversations"), name
        roles.run(f"GRANT {right} ({column}) ON conversations TO {worker}")


def test_row_level_security_without_a_policy_is_a_right_that_is_missing(roles: Roles) -> None:
    worker = roles.name("worker")
    for table in TABLES[:2]:
        roles.run(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    assert probe(roles)[0] == 200
    roles.run(f"DROP POLICY lapse_{worker} ON conversation_events")
    assert probe(roles) == said(roles, "SELECT conversation_events, INSERT conversation_events")
    roles.run(f"CREATE POLICY reading ON conversation_events FOR SELECT TO {worker} USING (true)")
    assert probe(roles) == said(roles, "INSERT conversation_events")


def test_a_table_that_is_gone_is_named(roles: Roles) -> None:
    roles.run("DROP TABLE conversation_events CASCADE")
    assert probe(roles) == (503, "not ready: the database has no table conversation_events: run `lapse doctor`\n")


def add_due(roles: Roles) -> None:
    """Add a conversation that is idle and one that is past its expiry."""
    with closing(ConversationService(roles.admin_url)) as service:
        idle = service.record_message(80, "+12125550001", "+14155238886").conv_id
        expired = service.record_message(80, "+12125550002", "+14155238886").conv_id
    hour_ago = "now() - interval '1 hour'"
    roles.run(
        f"UPDATE conversations SET updated_at = {hour_ago}, idle_check_at = {hour_ago} WHERE conv_id = '{idle}'",
        f"UPDATE conversations SET expires_at = {hour_ago} WHERE conv_id = '{expired}'",
    )
