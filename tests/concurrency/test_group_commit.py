"""Group commit: messages of the same moment are recorded together, and none has to do with another's trouble."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import wait
from contextlib import closing
from itertools import count, pairwise

import psycopg
import pytest

from lapse import ConversationService, Database, Message, MessageResult
from lapse.errors import ConversationRefusedError
from tests.concurrency.callers import KINDS, calling, locked, message_of, outcomes_of
from tests.concurrency.test_forks import wait_for
from tests.support.invariants import check_invariants
from tests.support.sql import count as count_rows
from tests.support.sql import run_sql

OTHERS = 30
PROMPT_SECONDS = 1.0

kinds = pytest.mark.parametrize("kind", KINDS)
senders = pytest.mark.parametrize("sender", ["user", "agent"])
with_ids = pytest.mark.parametrize("has_ids", [False, True], ids=["without ids", "with ids"])


# --- (a) a locked row -------------------------------------------------------------------------------------------------


@kinds
@senders
@with_ids
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("place", ["leads", "follows"])
def test_a_locked_row_holds_up_its_own_message_only(
    postgres_url: str, kind: str, sender: str, has_ids: bool, is_known: bool, place: str
) -> None:
    """The one that leads waits at the database alone first; one that follows is in a group with others."""
    numbers = count()

    def message(number: int, sender: str = sender) -> Message:
        return message_of(number, sender=sender, message_id=f"m{next(numbers)}" if has_ids else None)

    with calling("threads" if not is_known else kind, postgres_url) as before, calling(kind, postgres_url) as callers:
        opening = callers if is_known else before
        wait(opening.start_all([message(n, "user") for n in range(OTHERS + 2)]))
        with locked(postgres_url, 0, OTHERS + 1) as other:
            held = [callers.start(message(0))]
            wait_until_one_waits(other)
            if place == "follows":
                begun = callers.start_all([message(n) for n in range(1, OTHERS + 2)])
                held.append(begun.pop())
            else:
                begun = callers.start_all([message(n) for n in range(1, OTHERS + 1)])
            done, late = wait(begun, PROMPT_SECONDS)
            assert (len(done), len(late)) == (OTHERS, 0)
            assert not any(call.done() for call in held)
        assert set(outcomes_of([*begun, *held])) == {"continued" if sender == "user" else "answered"}
    check(postgres_url)


def wait_until_one_waits(other: psycopg.Connection[tuple[object, ...]]) -> None:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'lapse' AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 10
    while other.execute(query).fetchall() == [(0,)]:
        other.execute("SELECT pg_stat_clear_snapshot()")
        assert time.monotonic() < deadline
        time.sleep(0.005)


def check(url: str) -> None:
    with closing(Database(url)) as database:
        check_invariants(database)


# --- (b) a refused message --------------------------------------------------------------------------------------------


@kinds
@senders
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "new"])
def test_a_message_that_the_database_refuses_fails_alone(
    postgres_url: str, kind: str, sender: str, is_open: bool
) -> None:
    refused = {3, 17}
    with calling(kind, postgres_url) as callers, closing(Database(postgres_url)) as database:
        if is_open:
            wait(callers.start_all([message_of(n) for n in range(OTHERS)]))
        else:
            wait(callers.start_all([message_of(OTHERS)]))
        refuse(database, refused)
        for _ in range(3):
            calls = callers.start_all([message_of(n, sender=sender) for n in range(OTHERS)])
            errors = {n: error for n, call in enumerate(calls) if (error := call.exception()) is not None}
            assert set(errors) == refused
            for number, error in errors.items():
                assert isinstance(error, ConversationRefusedError)
                assert f"not {number}" in str(error)
        assert count_rows(database, "conversations") == (OTHERS if is_open else OTHERS - 2 + 1)
        check_invariants(database)


def refuse(database: Database, numbers: set[int]) -> None:
    """Let a trigger refuse every write to the conversations of these customers, with an error of its own for each."""
    run_sql(
        database,
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'not %', CAST(substring(NEW.session_key FROM '1212([0-9]+)') AS int)
        USING ERRCODE = 'check_violation'; END $$""",
    )
    listed = ", ".join(f"'%1212{number:07}%'" for number in numbers)
    run_sql(
        database,
        f"""CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON conversations FOR EACH ROW
        WHEN (NEW.session_key LIKE ANY (ARRAY[{listed}])) EXECUTE FUNCTION refuse()""",
    )


def test_the_parts_that_a_refusal_divides_a_list_into_know_of_each_other(postgres_url: str) -> None:
    """What one part has recorded is no lost attempt of the next one's: an answer counts, and a copy is one."""
    messages = [
        message_of(1, message_id="a"),
        message_of(2, message_id="b"),
        message_of(3),
        message_of(1, sender="agent"),
        message_of(1, message_id="a"),
        message_of(2, message_id="b"),
    ]
    with closing(ConversationService(postgres_url)) as service:
        service.record(message_of(0))
        refuse(service.database, {3})
        results = service.record_messages(messages)
        outcomes = [result.outcome if isinstance(result, MessageResult) else type(result) for result in results]
        assert outcomes == ["opened", "opened", ConversationRefusedError, "answered", "copy", "copy"]
        assert isinstance(results[3], MessageResult)
        assert results[3].conversation is not None
        assert service.get_conversation_by_id(results[3].conversation.conv_id).first_answered_at is not None
        check_invariants(service.database)


# --- (d) order --------------------------------------------------------------------------------------------------------


@kinds
@with_ids
def test_the_calls_of_one_caller_take_effect_in_their_order(database_url: str, kind: str, has_ids: bool) -> None:
    callers_of_the_pair, calls = 8, 25
    results: list[list[MessageResult]] = [[] for _ in range(callers_of_the_pair)]
    numbers = count()
    with calling(kind, database_url) as callers:

        def call(caller: int) -> None:
            for place in range(calls):
                sender = "agent" if place and (place + caller) % 5 == 4 else "user"  # a customer opens it
                message_id = f"m{next(numbers)}" if has_ids else None
                found = callers.start(message_of(1, sender=sender, message_id=message_id))
                results[caller].append(found.result())

        threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers_of_the_pair)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for of_caller in results:
        assert len(of_caller) == calls
        states = [result.conversation for result in of_caller]
        for earlier, later in pairwise(states):
            assert earlier is not None
            assert later is not None
            assert earlier.version <= later.version
            assert earlier.updated_at <= later.updated_at
    outcomes = Counter(result.outcome.value for of_caller in results for result in of_caller)
    assert outcomes == {"opened": 1, "answered": 1, "continued": callers_of_the_pair * calls - 2}
    check(database_url)


@kinds
def test_what_one_caller_starts_first_is_recorded_first(database_url: str, kind: str) -> None:
    """Of the messages of one pair that wait together, the first one opens."""
    rounds = 50
    with calling(kind, database_url) as callers:
        for number in range(rounds):
            first, *others = callers.start_all([message_of(number), *[message_of(n) for n in range(100, 110)]])
            assert first.result().outcome.value == "opened"
            wait(others)
    check(database_url)


# --- (e) a fork -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_groups_leaves_both_sides_working(postgres_url: str) -> None:
    forks, is_over = 12, threading.Event()
    sent = Counter[int]()
    with closing(ConversationService(postgres_url)) as service:
        service.record(message_of(0))

        def send(number: int) -> None:
            while not is_over.is_set():
                service.record(message_of(number))
                sent[number] += 1

        threads = [threading.Thread(target=send, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        statuses = []
        try:
            for number in range(forks):
                time.sleep(0.02)
                child = os.fork()
                if not child:
                    record_as_a_child(service, 100 + number)
                statuses.append(wait_for(child))
            before = sent.copy()
            time.sleep(0.3)
            assert all(sent[number] > before[number] for number in range(16)), "the parent goes on"
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert statuses == [0] * forks
        assert count_rows(service.database, "conversations") == 16 + forks
        check_invariants(service.database)


def record_as_a_child(service: ConversationService, number: int) -> None:
    """Record messages from threads of the child's own, and end the process: with 0 where each was answered."""
    status = 1
    try:
        answered: list[MessageResult] = []
        own = [threading.Thread(target=lambda: answered.append(service.record(message_of(number)))) for _ in range(4)]
        for thread in own:
            thread.start()
        for thread in own:
            thread.join(20)
        status = 0 if len(answered) == len(own) else 2
    finally:
        os._exit(status)
