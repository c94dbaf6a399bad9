"""Adopting through a pooler: one in session mode will do, one in transaction mode is refused."""

from __future__ import annotations

from contextlib import closing

import pytest

from lapse import ConversationService
from tests.adoption.legacy_table import connect, create_legacy_table, fill
from tests.conftest import SERVERS, NewDatabase
from tests.support.commands import error_line, run_here
from tests.support.pgbouncer import require_pgbouncer, running_pgbouncer, through_pooler

ROWS = 200


@pytest.fixture
def old_url(new_database: NewDatabase, pytestconfig: pytest.Config) -> str:
    """Return the URL of a legacy table on the first server: what is tried here is PgBouncer."""
    url = new_database(next(iter(pytestconfig.stash[SERVERS].by_name)), migrated=False)
    with connect(url) as connection:
        create_legacy_table(connection)
        fill(connection, ROWS)
    return url


def test_a_pooler_in_session_mode_will_do(old_url: str) -> None:
    require_pgbouncer()
    with running_pgbouncer(old_url, lambda _folder: {"pool_mode": "session"}) as pooler:
        url = through_pooler(pooler, old_url)
        adopted = run_here("adopt", "--database-url", url)
        assert adopted.returncode == 0, adopted
        assert run_here("doctor", "--database-url", url).returncode == 0
        # The pooler keeps the session that the doctor had, under lapse's name.
        assert run_here("unadopt", "--force", "--database-url", url).returncode == 0


def test_a_pooler_without_a_second_session_will_do_in_session_mode(old_url: str) -> None:
    require_pgbouncer()
    one = {"pool_mode": "session", "default_pool_size": "1", "query_wait_timeout": "1"}
    with running_pgbouncer(old_url, lambda _folder: one) as pooler:
        adopted = run_here("adopt", "--database-url", through_pooler(pooler, old_url))
    assert adopted.returncode == 0, adopted


@pytest.mark.parametrize("size", ["1", "20"])
def test_a_pooler_in_transaction_mode_is_refused_and_nothing_touched(old_url: str, size: str) -> None:
    require_pgbouncer()
    with running_pgbouncer(old_url, lambda _folder: {"default_pool_size": size}) as pooler:
        url = through_pooler(pooler, old_url)
        for command in ("adopt", "unadopt"):
            assert "a pooler in transaction mode; nothing was changed" in error_line(
                run_here(command, "--database-url", url), 1
            )
    with connect(old_url) as connection:
        assert connection.execute("SELECT to_regclass('lapse_adoption')").fetchone() == (None,)


def test_an_adopted_table_works_through_a_pooler_in_transaction_mode(old_url: str) -> None:
    require_pgbouncer()
    assert run_here("adopt", "--database-url", old_url).returncode == 0
    with running_pgbouncer(old_url) as pooler:
        url = through_pooler(pooler, old_url)
        with closing(ConversationService(url)) as service:
            assert service.record_message(70, "+5511999990001", "+14155238886").status == "pending"
        worked = run_here("worker", "--once", "--database-url", url)
        assert worked.returncode == 0, worked
        assert worked.stdout.count("task processed") == 2
        assert run_here("status", "--database-url", url).returncode == 0
