"""A backlog drains: in batches of the right size, at the wished rate, within its time, whatever stands in the way."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import closing
from datetime import timedelta
from uuid import UUID

import pytest

from lapse import BackgroundWorker, ConversationService, Database, load_settings
from lapse.worker import quarantine
from lapse.worker.tasks import RETRIES_PER_RUN, sweep_tasks
from tests.support.backlog import IDLE_TIMEOUT, customer, insert_conversations
from tests.support.clock import ManualSeconds
from tests.support.commands import running_lapse
from tests.support.invariants import check_invariants
from tests.support.logs import captured_events
from tests.support.sql import run_sql
from tests.support.workers import EXPIRED, IDLE, counts, worker_on

MINUTE = timedelta(minutes=1)

# Only a transition of certain conversations is refused: those whose customer's number ends in the digits given.
REFUSE_SOME = {
    "sqlite": """
        CREATE TRIGGER poison BEFORE UPDATE ON conversations WHEN old.from_number LIKE '%{digits}'
        AND new.status = 'expired' BEGIN SELECT RAISE(ABORT, 'not +5511987654321'); END""",
    "postgresql": """
        CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
            RAISE EXCEPTION ''not %'', old.from_number; END';
        CREATE TRIGGER poison BEFORE UPDATE ON conversations FOR EACH ROW
            WHEN (old.from_number LIKE '%{digits}' AND new.status = 'expired') EXECUTE FUNCTION poison()""",
}
HEAL = {"sqlite": "DROP TRIGGER poison", "postgresql": "DROP TRIGGER poison ON conversations"}


def overdue(database: Database, number: int) -> list[UUID]:
    return insert_conversations(database, range(number), expires_in=-MINUTE, step=timedelta(milliseconds=1))


def with_pauses_by(clock: ManualSeconds, worker: BackgroundWorker) -> None:
    """Let the pauses of what is refused be over by this clock."""
    tasks = sweep_tasks(worker.conversation_service, batch_size=worker.batch_size, clock=clock)
    worker.tasks[EXPIRED].task = tasks[EXPIRED]


@pytest.mark.parametrize("batch_size", [None, 7])
def test_refused_conversations_do_not_stop_the_others(
    database: Database, database_url: str, batch_size: int | None
) -> None:
    ids = overdue(database, 300)
    refused = {str(ids[number]) for number in range(0, 300, 100)}
    run_sql(database, REFUSE_SOME[database.dialect].format(digits="00"))
    clock = ManualSeconds()
    with worker_on(database_url, batch_size=batch_size) as worker:
        with_pauses_by(clock, worker)
        with captured_events() as logged:
            run = worker.run_task(EXPIRED)
        assert (run.ended, run.refused, run.completed, run.error) == (297, 3, True, None)
        assert counts(database) == {"expired": 297, "pending": 3}
        lines = [line for line in logged if line["event"] == "conversation refused"]
        assert {line["conv_id"] for line in lines} == refused
        assert all(line["log_level"] == "error" and line["retry_in_seconds"] > 0 for line in lines)
        assert customer(0) not in str(logged)
        assert "+5511987654321" not in str(logged)
        assert worker.metrics[EXPIRED].total_items_refused == 3

        overdue_later = insert_conversations(database, range(301, 310), expires_in=-MINUTE)
        assert worker.run_task(EXPIRED).ended == len(overdue_later), "those in quarantine are not in the way"
        deadlines = worker.conversation_service.conversation_repo.next_deadlines(IDLE_TIMEOUT, {EXPIRED: ids})
        assert deadlines.due_at[EXPIRED] is None, "nor do they wake the worker"

        clock.advance(quarantine.FIRST_BACKOFF_SECONDS)
        run = worker.run_task(EXPIRED)
        assert (run.ended, run.refused) == (0, 3), "tried again, each alone"
        run_sql(database, HEAL[database.dialect])
        assert worker.run_task(EXPIRED).ended == 0, "the pause has begun anew"
        clock.advance(2 * quarantine.FIRST_BACKOFF_SECONDS)
        assert worker.run_task(EXPIRED).ended == 3
        assert worker.tasks[EXPIRED].task.quarantined_ids == []
    assert counts(database) == {"expired": 309}
    check_invariants(database)


@pytest.mark.parametrize(
    "poison",
    [
        "ALTER TABLE conversations ADD CONSTRAINT poison CHECK (status <> 'expired' OR from_number NOT LIKE '%05')",
        # Raised by COMMIT, when the statement itself has succeeded.
        """CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''poison''; END';
        CREATE CONSTRAINT TRIGGER poison AFTER UPDATE ON conversations DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            WHEN (old.from_number LIKE '%05' AND new.status = 'expired') EXECUTE FUNCTION poison()""",
        # One certain conversation: a condition on random ids refuses none of fifty now and then.
        """DO $$BEGIN EXECUTE format('ALTER TABLE conversation_events ADD CONSTRAINT poison CHECK (conv_id <> %L)',
            (SELECT conv_id FROM conversations WHERE from_number LIKE '%05')); END$$""",
    ],
)
def test_whatever_refuses_a_conversation_is_its_own_affair(postgres_url: str, poison: str) -> None:
    with closing(Database(postgres_url)) as database, worker_on(postgres_url) as worker:
        overdue(database, 50)
        run_sql(database, poison)
        run = worker.run_task(EXPIRED)
        assert run.error is None
        assert run.refused > 0
        assert counts(database) == {"expired": run.ended, "pending": run.refused}
        check_invariants(database)


def test_a_run_that_is_only_refused_fails_and_the_next_one_gets_further(database: Database, database_url: str) -> None:
    overdue(database, 250)
    run_sql(database, REFUSE_SOME[database.dialect].format(digits=""))
    with worker_on(database_url) as worker, captured_events() as logged:
        run = worker.run_task(EXPIRED)
        assert (run.refused, type(run.error).__name__) == (101, "ConversationRefusedError")
        assert len(worker.tasks[EXPIRED].task.quarantined_ids) == 100
        assert worker.metrics[EXPIRED].failed_runs == 1
        worker.run_task(EXPIRED)
        assert len(worker.tasks[EXPIRED].task.quarantined_ids) == 200
    assert counts(database) == {"pending": 250}
    assert len(logged) == 100 + 1 + 100 + 1


SLOW_ONE = """
    CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN IF old.from_number LIKE ''%03'' THEN PERFORM pg_sleep(2); END IF; RETURN new; END';
    CREATE TRIGGER poison BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION poison();
    ALTER DATABASE {database} SET statement_timeout = '300ms'"""
LOCKED_ONE = """
    CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN IF old.from_number LIKE ''%03'' THEN RAISE EXCEPTION ''busy'' USING ERRCODE = ''55P03''; END IF;
        RETURN new; END';
    CREATE TRIGGER poison BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION poison()"""
SKIPPED_ONE = """
    CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN IF old.from_number LIKE ''%03'' THEN RETURN NULL; END IF; RETURN new; END';
    CREATE TRIGGER poison BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION poison()"""


@pytest.mark.parametrize("poison", [SLOW_ONE, LOCKED_ONE, SKIPPED_ONE])
@pytest.mark.parametrize("batch_size", [None, 1])
def test_a_conversation_that_is_slow_or_locked_or_skipped_is_quarantined(
    postgres_url: str, poison: str, batch_size: int | None
) -> None:
    with closing(Database(postgres_url)) as database, worker_on(postgres_url, batch_size=batch_size) as worker:
        overdue(database, 12)
        run_sql(database, poison.format(database=database.engine.url.database))
        runs = [worker.run_task(EXPIRED) for _ in range(2)]
        assert [run.error for run in runs] == [None, None]
        assert (sum(run.ended for run in runs), sum(run.refused for run in runs)) == (11, 1)
        assert len(worker.tasks[EXPIRED].task.quarantined_ids) == 1
        assert counts(database) == {"expired": 11, "pending": 1}
        check_invariants(database)


def test_what_the_database_leaves_as_it_was_counts_as_refused(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database, worker_on(postgres_url) as worker:
        overdue(database, 12)
        run_sql(database, SKIPPED_ONE.replace("%03", "%"))
        worker.run_task(EXPIRED)
        assert worker.instrumentation.registry is not None
        counted = [
            worker.instrumentation.registry.get_sample_value(
                f"lapse_conversations_{name}_total", {"task_type": EXPIRED}
            )
            for name in ("refused", "contended")
        ]
    assert counted == [12, 0]


def test_an_infinite_deadline_ends_and_has_no_lag(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database, worker_on(postgres_url) as worker:
        insert_conversations(database, range(3), silent_for=timedelta(hours=1))
        run_sql(database, "UPDATE conversations SET updated_at = '-infinity' WHERE from_number LIKE '%1'")
        run = worker.run_task(IDLE)
        assert (run.ended, run.refused) == (3, 0)
        assert worker.instrumentation.registry is not None
        lag = worker.instrumentation.registry.get_sample_value("lapse_transition_lag_seconds_sum", {"task_type": IDLE})
        assert lag == pytest.approx(2 * 1800, abs=60)


def test_many_skipped_conversations_of_one_deadline_do_not_hide_the_others(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database, worker_on(postgres_url, batch_size=10) as worker:
        insert_conversations(database, range(12), expires_in=-2 * MINUTE, step=timedelta(0))
        insert_conversations(database, range(100, 110), expires_in=-MINUTE)
        run_sql(database, SKIPPED_ONE.replace("%03", "+121200000%"))
        runs = [worker.run_task(EXPIRED) for _ in range(2)]
    assert sum(run.refused for run in runs) + sum(run.ended for run in runs) == 22
    assert [run.completed for run in runs] == [True, True]


def test_what_is_tried_again_comes_after_the_others(database: Database, database_url: str) -> None:
    ids = overdue(database, 150)
    run_sql(database, REFUSE_SOME[database.dialect].format(digits=""))
    clock = ManualSeconds()
    with worker_on(database_url) as worker:
        with_pauses_by(clock, worker)
        for _ in range(2):
            worker.run_task(EXPIRED)
        assert len(worker.tasks[EXPIRED].task.quarantined_ids) == 150
        run_sql(database, HEAL[database.dialect])
        if database.dialect == "postgresql":
            run_sql(database, "DROP FUNCTION poison")
        run_sql(database, REFUSE_SOME[database.dialect].format(digits="0").replace("LIKE '%0'", "NOT LIKE '%9999'"))
        insert_conversations(database, range(9_999, 10_000), expires_in=-MINUTE)
        clock.advance(2 * quarantine.FIRST_BACKOFF_SECONDS)
        run = worker.run_task(EXPIRED)
    assert (run.ended, run.refused, run.error) == (1, RETRIES_PER_RUN, None)
    assert len(ids) == 150


def test_a_single_cycle_with_a_refused_conversation_is_a_failure(database: Database, database_url: str) -> None:
    overdue(database, 3)
    run_sql(database, REFUSE_SOME[database.dialect].format(digits="01"))
    with running_lapse("worker", "--once", "--database-url", database_url) as running:
        assert running.wait_for("task processed")["count"] == 2
        assert running.process.wait(20) == 1
    assert [line["event"] for line in running.log] == ["conversation refused", "task processed"]


@pytest.mark.parametrize("batch_size", [None, 100])
def test_a_statement_time_out_shrinks_the_batch(postgres_url: str, batch_size: int | None) -> None:
    with closing(Database(postgres_url)) as database:
        overdue(database, 120)
        run_sql(
            database,
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_sleep(0.004); RETURN new; END';"
            "CREATE TRIGGER slow BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION slow();"
            f"ALTER DATABASE {database.engine.url.database} SET statement_timeout = '250ms'",
        )
        with worker_on(postgres_url, batch_size=batch_size) as worker, captured_events() as logged:
            run = worker.run_task(EXPIRED)
        assert (run.ended, run.error, run.completed) == (120, None, True)
        assert "batch timed out" in {line["event"] for line in logged}
        check_invariants(database)


def test_the_rate_is_not_exceeded_and_a_stop_does_not_wait_for_it(database: Database, database_url: str) -> None:
    overdue(database, 400)
    with worker_on(database_url, max_rate=200) as worker:
        begin = time.monotonic()
        threading.Timer(1, worker.stop).start()
        run = worker.run_task(EXPIRED)
        seconds = time.monotonic() - begin
        assert seconds >= 0.9
        assert not run.completed
        # At the beginning of each pause, what was allowed until its end has been done already.
        assert 0 < run.ended <= 200 * (seconds + 0.25)
    with worker_on(database_url, max_rate=0.1) as slow:
        threading.Timer(0.3, slow.stop).start()
        begin = time.monotonic()
        assert slow.run_task(EXPIRED).ended == 1
        assert time.monotonic() - begin < 5, "the pause would be ten seconds"


def test_a_run_that_is_out_of_time_goes_on_where_it_was(database: Database, database_url: str) -> None:
    overdue(database, 100)
    with worker_on(database_url, batch_size=10) as worker:
        runner = worker.tasks[EXPIRED]
        ended = 0
        while ended < 100:
            run = runner.run(cycle=1, deadlines=None, max_seconds=0)
            assert (run.ended, run.batches, run.completed) == (10, 1, False)
            ended += run.ended
        assert runner.run(cycle=1, deadlines=None, max_seconds=0).completed
    check_invariants(database)


def test_a_worker_out_of_time_starts_the_next_cycle_at_once(database: Database, database_url: str) -> None:
    overdue(database, 3_000)
    with running_lapse(
        "worker", "--interval", "0.01", "--min-wait", "30", "--batch-size", "50", "--database-url", database_url
    ) as running:
        ended = 0
        while ended < 3_000:
            ended += running.wait_for("task processed")["count"]
        assert running.stop(signal.SIGTERM) < 1
    cycles = [line["cycle"] for line in running.log if line["event"] == "task processed"]
    assert len(cycles) > 1
    assert counts(database) == {"expired": 3_000}
    check_invariants(database)


def test_the_size_of_batches_follows_their_time(database: Database, database_url: str) -> None:
    overdue(database, 2_000)
    with worker_on(database_url) as worker:
        run = worker.run_task(EXPIRED)
    assert run.ended == 2_000
    assert run.batches < 20, "batches of a hundred would be twenty"


def test_a_fixed_size_is_kept(database: Database, database_url: str) -> None:
    overdue(database, 200)
    with closing(ConversationService(database_url, settings=load_settings(batch_size=20))) as service:
        assert BackgroundWorker(service=service).run_task(EXPIRED).batches == 11
