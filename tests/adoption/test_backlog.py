"""A worker's first cycle on an adopted table does not end a backlog of years unless somebody says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from lapse import BackgroundWorker, ConversationService, Database, InvalidInputError
from lapse.errors import BacklogError
from lapse.models import Preview
from tests.adoption.legacy_table import connect, create_legacy_table
from tests.support.backlog import insert_conversations
from tests.support.commands import run_here, run_lapse, running_lapse
from tests.support.logs import captured_events
from tests.support.proxy import Proxy
from tests.support.sql import run_sql
from tests.support.workers import counts

IDLE, EXPIRED = 7, 5
DUE = IDLE + EXPIRED
FRESH = 3
ALL = IDLE + EXPIRED + FRESH
NOTHING_ENDED = {"pending": ALL}
EVERYTHING_ENDED = {"idle_timeout": IDLE, "expired": EXPIRED, "pending": FRESH}


@pytest.fixture
def adopted_url(empty_postgres_url: str) -> str:
    """Return the URL of a database whose table was adopted with conversations that are long due."""
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection)
        connection.execute(
            f"""INSERT INTO conversations (owner_id, from_number, to_number, updated_at, expires_at)
            SELECT 1 + n % 2, '+1212555' || lpad(n::text, 4, '0'), '+14155238886',
                now() - CASE WHEN n <= {DUE} THEN interval '40 days' ELSE interval '0' END,
                now() + CASE WHEN n <= {EXPIRED} THEN interval '-39 days' ELSE interval '1 day' END
            FROM generate_series(1, {ALL}) AS n""".encode()
        )
    adopted = run_here("adopt", "--database-url", empty_postgres_url)
    assert adopted.returncode == 0, adopted
    return empty_postgres_url


@pytest.fixture
def database(adopted_url: str) -> Iterator[Database]:
    with closing(Database(adopted_url)) as opened:
        yield opened


def worker_of(url: str, limit: int = DUE - 1, *, accept: bool = False, silently: bool = False) -> BackgroundWorker:
    service = ConversationService(url)
    return BackgroundWorker(
        batch_size=2, service=service, backlog_limit=limit, accept_backlog=accept, expire_silently=silently
    )


def silent_and_aloud(database: Database) -> tuple[int, int]:
    """Return how many events of workers are silent, and how many are not."""
    (row,) = run_sql(
        database,
        """SELECT count(*) FILTER (WHERE data ->> 'silent' = 'true') AS silent,
            count(*) FILTER (WHERE data ->> 'silent' IS NULL) AS aloud
        FROM conversation_events WHERE actor = 'worker'""",
    )
    return row.silent, row.aloud


@pytest.mark.parametrize("once", [["--once"], []])
def test_the_command_stops_with_the_preview_and_says_how_to_go_on(
    adopted_url: str, database: Database, once: list[str]
) -> None:
    stopped = run_lapse("worker", *once, "--backlog-limit", str(DUE - 1), "--database-url", adopted_url)
    assert stopped.returncode == 2, stopped
    *shown, last = stopped.stderr.splitlines()
    assert last.startswith(f"lapse: {DUE} conversations of the adopted table are due")
    for option in ("--accept-backlog", "--max-rate", "--expire-silently"):
        assert option in last
    preview = "\n".join(shown)
    assert f"would end {DUE} conversations" in preview
    assert f"{EXPIRED}  pending → expired" in preview
    assert "backlog not accepted" in stopped.stdout
    assert "+1212555" not in stopped.stdout + stopped.stderr
    assert counts(database) == NOTHING_ENDED
    accepted = run_lapse("worker", "--once", "--accept-backlog", "--database-url", adopted_url)
    assert (accepted.returncode, accepted.stderr) == (0, "")
    assert counts(database) == EVERYTHING_ENDED


def test_a_worker_in_python_stops_too_and_its_error_holds_the_preview(adopted_url: str, database: Database) -> None:
    for run in (BackgroundWorker.run_once, BackgroundWorker.run):
        worker = worker_of(adopted_url)
        with pytest.raises(BacklogError) as caught:
            run(worker)
        assert isinstance(caught.value.preview, Preview)
        assert caught.value.preview.conversations == DUE
        assert (worker.running, worker.cycle_count) == (False, 0)
    assert counts(database) == NOTHING_ENDED
    assert worker_of(adopted_url, DUE).run_once(), "as many as the limit are not more than it"
    assert counts(database) == EVERYTHING_ENDED
    assert silent_and_aloud(database) == (0, DUE)


def test_once_a_worker_has_ended_anything_none_stops_again(adopted_url: str, database: Database) -> None:
    accepted = worker_of(adopted_url, 0, accept=True)
    accepted.task_config["expired_conversations"]["enabled"] = False
    assert accepted.run_once()
    assert counts(database) == {"idle_timeout": IDLE, "pending": EXPIRED + FRESH}
    assert worker_of(adopted_url, 0).run_once(), "a restart in the middle of an accepted backlog"
    assert counts(database) == EVERYTHING_ENDED


def test_only_what_was_due_at_the_first_worker_expires_silently(adopted_url: str, database: Database) -> None:
    first = worker_of(adopted_url, 0, silently=True)
    first.task_config["expired_conversations"]["enabled"] = False
    assert first.run_once()
    assert silent_and_aloud(database) == (IDLE, 0)
    with pytest.raises(BacklogError):
        worker_of(adopted_url, 0).run_once()  # the rest would end aloud
    # Due since then, as after an outage.
    run_sql(database, "UPDATE conversations SET expires_at = clock_timestamp() WHERE expires_at > now()")
    assert worker_of(adopted_url, 0, silently=True).run_once()
    assert silent_and_aloud(database) == (DUE, IDLE + FRESH)
    assert counts(database) == {"expired": ALL}
    (row,) = run_sql(
        database, "SELECT DISTINCT data FROM conversation_events WHERE to_status = 'idle_timeout' AND actor = 'worker'"
    )
    assert row.data == {"silent": True, "idle_timeout_seconds": 1800}


def test_a_look_at_what_is_due_counts_each_conversation_once(adopted_url: str, database: Database) -> None:
    # Armed with a longer timeout than today's: due, though its idle check is not.
    run_sql(
        database,
        "UPDATE conversations SET idle_check_at = now() + interval '1 day', idle_timeout_seconds = 999999 "
        f"WHERE conv_id = {DUE}",
    )
    assert worker_of(adopted_url, DUE).run_once()
    assert counts(database) == EVERYTHING_ENDED


def test_a_database_that_is_away_is_waited_for_before_the_gate(adopted_url: str, database: Database) -> None:
    proxy = Proxy(adopted_url)
    with (
        closing(proxy),
        running_lapse("worker", "--backlog-limit", "0", "--database-url", proxy.url) as worker,
    ):
        worker.wait_for("waiting for the database")
        proxy.open()
        worker.wait_for("backlog not accepted")
        assert worker.process.wait(20) == 2
    assert counts(database) == NOTHING_ENDED


def test_a_table_of_lapses_own_has_no_gate_and_nothing_silent(database_url: str) -> None:
    with closing(Database(database_url)) as own:
        insert_conversations(own, range(3), expires_in=-timedelta(minutes=1))
        assert worker_of(database_url, 0).run_once()
        assert counts(own) == {"expired": 3}
        insert_conversations(own, range(10, 13), expires_in=-timedelta(minutes=1))
        with captured_events() as logged:
            assert worker_of(database_url, 0, silently=True).run_once()
        assert "nothing expires silently" in [line["event"] for line in logged]
        assert counts(own) == {"expired": 6}
        assert [row.data for row in run_sql(own, "SELECT CAST(data AS TEXT) AS data FROM conversation_events")] == [
            "{}"
        ] * 6


def test_accepting_and_silence_do_not_go_together() -> None:
    with pytest.raises(InvalidInputError, match="choose one"):
        BackgroundWorker(accept_backlog=True, expire_silently=True)
    with pytest.raises(InvalidInputError, match="backlog_limit"):
        BackgroundWorker(backlog_limit=-1)
