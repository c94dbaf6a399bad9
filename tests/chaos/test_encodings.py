"""Databases of every encoding: what one can hold is kept, what it cannot is refused for that call alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Unpack

import pytest

from lapse import BackgroundWorker, ConversationService, Database
from lapse.errors import ConversationRefusedError
from lapse.messages import OpeningOptions
from lapse.store import migrate
from tests.chaos import scale
from tests.chaos.outcome import Outcome
from tests.chaos.whole_life import BUSINESS, Lives, check_same
from tests.conftest import SERVERS
from tests.support.commands import run_here
from tests.support.invariants import check_invariants
from tests.support.postgres import Server
from tests.support.sql import run_sql

# PostgreSQL's names, and Python's of what can be written in them.
ENCODINGS = {
    "UTF8": "utf-8",
    "SQL_ASCII": "utf-8",
    "LATIN1": "latin-1",
    "LATIN9": "iso8859-15",
    "WIN1252": "cp1252",
    "EUC_JP": "euc_jp",
}
HANDLES = ("joao", "joão", "joão€", "œuvre", "日本", "ana😀", "ж")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run on the newest server, in a full run on all."""
    if "server" in metafunc.fixturenames:
        names = list(metafunc.config.stash[SERVERS].by_name)
        metafunc.parametrize("server", scale.scaled(small=names[:1], full=names), indirect=True)


@pytest.fixture
def server(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Server:
    return pytestconfig.stash[SERVERS].by_name[request.param]


@pytest.fixture
def encoded(pytestconfig: pytest.Config, server: Server, worker_id: str) -> Iterator[Callable[[str], str]]:
    """Make a database of an encoding, with lapse's schema."""
    made = []

    def make(encoding: str) -> str:
        name = f"{pytestconfig.stash[SERVERS].database_prefix}{worker_id}_{encoding.lower()}"
        locale = "LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        made.append(name)
        server.execute(f"CREATE DATABASE \"{name}\" ENCODING '{encoding}' {locale}")
        url = server.url_of(name)
        with closing(Database(url)) as database:
            migrate(database)
        return url

    yield make
    for name in made:
        server.drop_database(name)


def can_hold(encoding: str, text: str) -> bool:
    """Tell whether this text can be written in an encoding."""
    try:
        text.encode(ENCODINGS[encoding])
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_the_encoding_cannot_hold_is_refused_for_that_call_alone(
    encoded: Callable[[str], str], encoding: str, outcome_of_all: Outcome
) -> None:
    url = encoded(encoding)
    with closing(ConversationService(url)) as service:
        held = []
        for handle in HANDLES:
            note = {"name": handle, handle: [handle]}

            def said(handle: str = handle, **options: Unpack[OpeningOptions]) -> object:
                return service.record_message(1, handle, BUSINESS, "webchat", **options).metadata

            if can_hold(encoding, handle):
                assert said(metadata=note) == note
                assert said() == note
                held.append(handle)
            else:
                with pytest.raises(ConversationRefusedError) as caught:
                    said()
                assert handle not in str(caught.value)
                assert "\n" not in str(caught.value)
                with pytest.raises(ConversationRefusedError):
                    service.record_message(1, "plain", BUSINESS, "webchat", metadata=note)
                assert service.get_conversation_history(1, "plain", BUSINESS, "webchat") == []
                with pytest.raises(ConversationRefusedError):
                    service.get_conversation_history(1, handle, BUSINESS, "webchat")
            open_now = {found.from_number for found in service.get_active_conversations(1)}
            assert open_now == set(held)
        for found in service.get_active_conversations(1):
            if can_hold(encoding, "joão"):
                service.close_conversation(found.conv_id, "agent_closed", "não quer", "joão")
            else:
                with pytest.raises(ConversationRefusedError):
                    service.close_conversation(found.conv_id, "agent_closed", "não quer", "joão")
        check_invariants(service.database)
        outcome_of_all.count(service.database, encodings=1)


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name not in ("UTF8", "SQL_ASCII")])
def test_in_any_encoding_what_can_be_written_lives_as_in_utf8(encoded: Callable[[str], str], encoding: str) -> None:
    url = encoded(encoding)
    with closing(ConversationService(url)) as service:
        opened = service.record_message(1, "ana", BUSINESS, "webchat", user_id=7, metadata={"a": "b"})
        assert opened.started_at.tzinfo is not None
        run_sql(service.database, "UPDATE conversations SET expires_at = now() - interval '1 s'")
        assert BackgroundWorker(service=service).run_once()
        assert [event.type for event in service.get_conversation_events(opened.conv_id)] == ["expired"]
    for command in (["status", "--json"], ["preview"], ["worker", "--once"], ["migrate"]):
        result = run_here(*command, "--database-url", url)
        assert (result.returncode, result.stderr) == (0, ""), result
    result = run_here("doctor", "--json", "--database-url", url)
    assert result.stdout.startswith("{"), result


@pytest.mark.parametrize("encoding", ["latin1", "sql_ascii", "nosuch"])
def test_an_encoding_that_the_url_asks_for_changes_nothing(encoded: Callable[[str], str], encoding: str) -> None:
    with closing(ConversationService(f"{encoded('UTF8')}?client_encoding={encoding}")) as service:
        opened = service.record_message(1, "joão€", BUSINESS, "webchat", metadata={"name": "日本"})
        assert (opened.from_number, opened.metadata) == ("joão€", {"name": "日本"})
        assert service.get_conversation_history(1, "joão€", BUSINESS, "webchat") == [opened]


def test_in_sql_ascii_everything_lives_as_in_utf8(encoded: Callable[[str], str]) -> None:
    with closing(Lives(encoded("UTF8"))) as lives:
        expected = [lives.live(), lives.look()]
    with closing(Lives(encoded("SQL_ASCII"))) as lives:
        check_same([lives.live(), lives.look()], expected)


def test_bytes_that_are_no_text_are_refused_in_one_line_and_stop_no_worker(encoded: Callable[[str], str]) -> None:
    """A database of SQL_ASCII takes what any client writes: here one of LATIN1."""
    url = encoded("SQL_ASCII")
    with closing(ConversationService(url)) as service:
        wrong = service.record_message(1, "ana", BUSINESS, "webchat")
        right = service.record_message(2, "ana", BUSINESS, "webchat")
        text = r"convert_from(decode('jo\343o', 'escape'), 'SQL_ASCII')"
        run_sql(service.database, f"UPDATE conversations SET from_number = {text} WHERE owner_id = 1")
        calls: list[Callable[[], object]] = [
            lambda: service.get_conversation_by_id(wrong.conv_id),
            lambda: service.get_active_conversations(1),
            lambda: service.record_message(1, BUSINESS, "ana", "webchat", "agent"),
            lambda: service.extend_expiration(wrong.conv_id),
            lambda: service.close_conversation(wrong.conv_id, "user_closed"),
        ]
        for call in calls:
            with pytest.raises(ConversationRefusedError, match="invalid byte sequence"):
                call()
        assert run_sql(service.database, "SELECT status, version FROM conversations WHERE owner_id = 1") == [
            ("pending", 0)
        ]
        assert service.record_message(2, "ana", BUSINESS, "webchat").conv_id == right.conv_id
        run_sql(service.database, "UPDATE conversations SET expires_at = now() - interval '1 s'")
        assert BackgroundWorker(service=service).run_once()
        assert run_sql(service.database, "SELECT DISTINCT status FROM conversations") == [("expired",)]
