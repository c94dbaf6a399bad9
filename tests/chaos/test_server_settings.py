"""Whatever role, database and server have been set to, lapse does the same, or says in one line why it cannot."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from typing import NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from lapse import ConversationService, Database, DatabaseError, LapseError, load_settings
from lapse.store import migrate
from tests.chaos import scale
from tests.chaos.outcome import Outcome
from tests.chaos.server_settings import BEFORE_THE_SCHEMA, FAILS, WORKS, Case, given_to
from tests.chaos.whole_life import BUSINESS, CUSTOMER, Life, Lives, check_same, run_commands, run_doctor
from tests.conftest import SERVERS
from tests.support.commands import run_here
from tests.support.invariants import check_invariants
from tests.support.postgres import Server
from tests.support.sql import run_sql, transaction

CASES = {case.name: case for case in WORKS}
_numbers = count(1)


class Settled(NamedTuple):
    """A database, and what comes out of it while nothing is set."""

    server: Server
    lives: Lives
    expected: list[Life]

    @property
    def url(self) -> str:
        """Return the database's URL."""
        return self.lives.url


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run on the newest server, in a full run on all."""
    if "settled" in metafunc.fixturenames:
        names = list(metafunc.config.stash[SERVERS].by_name)
        chosen = scale.scaled(small=names[:1], full=names)
        metafunc.parametrize("settled", chosen, indirect=True, scope="module")


@pytest.fixture(scope="module")
def new_url(pytestconfig: pytest.Config, worker_id: str) -> Iterator[Callable[..., str]]:
    """Make databases that are there until the module's tests are done."""
    servers = pytestconfig.stash[SERVERS]
    made: list[tuple[Server, str]] = []

    def make(server: Server, options: str = "", *, migrated: bool = True) -> str:
        name = f"{servers.database_prefix}{worker_id}_settings_{next(_numbers)}"
        made.append((server, name))
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 {options}')
        url = server.url_of(name)
        if migrated:
            with closing(Database(url)) as database:
                migrate(database)
        return url

    yield make
    for server, name in made:
        server.drop_database(name)


@pytest.fixture(scope="module")
def settled(
    pytestconfig: pytest.Config, request: pytest.FixtureRequest, new_url: Callable[..., str]
) -> Iterator[Settled]:
    """Return a database, and what comes out of it while nothing is set."""
    server = pytestconfig.stash[SERVERS].by_name[request.param]
    url = new_url(server)
    with closing(Lives(url)) as lives:
        expected = _all_of(lives)
        check_invariants(lives.database)  # so they hold wherever the same comes out
        yield Settled(server, lives, expected)


def _all_of(lives: Lives) -> list[Life]:
    lived = lives.live()
    return [lived, *([run_commands(lives.url)] if scale.is_full() else []), lives.look()]


@pytest.mark.parametrize("case", WORKS, ids=lambda case: case.name)
def test_a_setting_changes_nothing_that_lapse_does(settled: Settled, case: Case, outcome_of_all: Outcome) -> None:
    server, lives, expected = settled
    lives.empty()
    with given_to(server, lives.url, case.settings) as known:
        if not known:
            pytest.skip(f"{server.name} knows no such setting")
        lives.close()
        found = _all_of(lives)
        said = run_doctor(lives.url) if scale.is_full() else ""
        lives.close()
    check_same(found, expected)
    assert CUSTOMER not in said
    outcome_of_all.count(lives.database, kept=1)


@pytest.mark.parametrize("name", scale.scaled(small=BEFORE_THE_SCHEMA, full=tuple(CASES)))
def test_a_schema_is_made_whatever_is_set(
    settled: Settled, new_url: Callable[..., str], name: str, outcome_of_all: Outcome
) -> None:
    server, lives, (expected, *_) = settled
    url = new_url(server, migrated=False)
    with given_to(server, url, CASES[name].settings):
        made = run_here("migrate", "--database-url", url)
        assert (made.returncode, made.stderr) == (0, ""), made
        with closing(Lives(url)) as lives:
            check_same([lives.live()], [expected])
        if scale.is_full():
            run_commands(url)
            run_doctor(url)
    outcome_of_all.count(lives.database, schemas=1)


def test_settings_of_the_role_are_as_good_as_those_of_the_database(settled: Settled) -> None:
    server, lives, expected = settled
    lives.empty()
    role = make_url(lives.url).username
    with given_to(server, lives.url, {"DateStyle": "SQL, DMY", "TimeZone": "Pacific/Kiritimati"}, role=role):
        lives.close()
        found = _all_of(lives)
        lives.close()
    check_same(found, expected)


def test_lapse_keeps_to_the_schema_that_the_search_path_names(settled: Settled, new_url: Callable[..., str]) -> None:
    server, _, (expected, *_) = settled
    url = new_url(server)
    with closing(Database(url)) as database:
        run_sql(database, "CREATE SCHEMA own")
        with given_to(server, url, {"search_path": "own, pg_catalog"}):
            assert run_here("migrate", "--database-url", url).returncode == 0
            with closing(Lives(url)) as lives:
                check_same([lives.live()], [expected])
        assert run_sql(database, "SELECT count(*) AS number FROM public.conversations")[0].number == 0
        assert run_sql(database, "SELECT count(*) AS number FROM own.conversations")[0].number > 0


def test_sessions_that_the_server_ends_between_two_calls_are_replaced(settled: Settled) -> None:
    server, lives, (expected, *_) = settled
    lives.empty()
    with given_to(server, lives.url, {"idle_session_timeout": "150ms"}):
        lives.close()
        found = lives.live(between=lambda: time.sleep(0.17))
        lives.close()
    check_same([found], [expected])


@pytest.mark.parametrize("case", FAILS, ids=lambda case: case.name)
def test_what_a_setting_forbids_is_refused_in_one_line(settled: Settled, case: Case, outcome_of_all: Outcome) -> None:
    server, lives, _ = settled
    lives.empty()
    settings = load_settings(call_timeout_seconds=3)
    with closing(ConversationService(lives.url, settings=settings)) as service:
        opened = service.record_message(1, CUSTOMER, BUSINESS)
    with given_to(server, lives.url, case.settings) as known:
        if not known:
            pytest.skip(f"{server.name} knows no such setting")
        with closing(ConversationService(lives.url, settings=settings)) as service:
            for call in (
                lambda: service.record_message(1, BUSINESS, CUSTOMER, sender="agent"),
                lambda: service.get_conversation_by_id(opened.conv_id),
                lambda: service.get_active_conversations(1),
                service.find_idle_conversations,
                lambda: service.next_deadlines(retry=False),
            ):
                with suppress(LapseError):
                    call()
        for command in (["status", "--json"], ["preview"], ["worker", "--once"]):
            result = run_here(*command, "--database-url", lives.url)
            # A worker's failures are in its log.
            assert len(result.stderr.splitlines()) == (result.returncode and "event" not in result.stdout), result
            assert "internal error" not in result.stderr
            assert CUSTOMER not in result.stderr
        run_doctor_or_line(lives.url)
    check_invariants(lives.database)
    outcome_of_all.count(lives.database, refused=1)


def run_doctor_or_line(url: str) -> None:
    """Run the doctor, which says what it finds, or in one line why it cannot look."""
    result = run_here("doctor", "--json", "--database-url", url)
    if result.stdout:
        json.loads(result.stdout)
        return
    assert result.returncode == 1, result
    assert len(result.stderr.splitlines()) == 1, result
    assert "internal error" not in result.stderr


def test_a_server_that_only_reads_is_the_reason_of_a_refused_write(settled: Settled) -> None:
    server, lives, _ = settled
    lives.empty()
    with closing(ConversationService(lives.url, settings=load_settings(call_timeout_seconds=3))) as service:
        opened = service.record_message(1, CUSTOMER, BUSINESS)
        with given_to(server, lives.url, {"default_transaction_read_only": "on"}):
            service.close()
            assert service.get_conversation_by_id(opened.conv_id) == opened
            with pytest.raises(DatabaseError, match="read-only"):
                service.record_message(1, CUSTOMER, BUSINESS)
        # It may write again, and nobody has to be told.
        assert service.record_message(1, CUSTOMER, BUSINESS).conv_id == opened.conv_id


def test_a_locked_row_is_waited_for_though_errors_tell_parameters(
    settled: Settled,
) -> None:
    server, lives, _ = settled
    lives.empty()
    settings = {"lock_timeout": "20ms", "log_parameter_max_length_on_error": "-1", "debug_parallel_query": "on"}
    with closing(ConversationService(lives.url)) as service:
        opened = service.record_message(1, CUSTOMER, BUSINESS)
        with given_to(server, lives.url, settings), transaction(service.database) as other:
            service.close()
            other.execute(sa.text("UPDATE conversations SET context = context"))
            threading.Timer(0.2, other.rollback).start()
            answered = service.record_message(1, BUSINESS, CUSTOMER, sender="agent")
    assert (answered.conv_id, answered.version) == (opened.conv_id, 1)
