"""Calls wait for rows that others keep locked, and their backends are ended, time out, or go with the server."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import count

import psycopg

from lapse import ConversationService, DatabaseUnavailableError, InvalidTransitionError
from tests.chaos.conftest import migrated, wait_for_server
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.support.backlog import BUSINESS, customer
from tests.support.invariants import check_invariants
from tests.support.postgres_process import ServerProcess
from tests.support.sql import run_sql

PAIRS, CALLERS = 6, 12
TERMINATIONS = scaled(small=15, full=400)
RESTARTS = scaled(small=1, full=8)
LONGEST_HOLD_SECONDS = 0.3
LOCK_TIMEOUT = "100ms"
PATIENCE_SECONDS = scaled(small=60, full=600)
END_A_WAITING_BACKEND = """
    SELECT count(pg_terminate_backend(pid)) FROM (
        SELECT pid FROM pg_stat_activity WHERE application_name = 'lapse' AND wait_event_type = 'Lock'
        ORDER BY random() LIMIT 1) AS waiting"""


class Storm:
    """Callers, somebody who keeps rows locked, and faults, until all of them have struck."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self.url = url
        self.chance = chance
        self.is_over = threading.Event()
        self.calls: Counter[str] = Counter()
        self.complaints: list[str] = []

    def call(self, service: ConversationService, number: int) -> None:
        """Send messages of both sides, extend and close, on few pairs, and check each answer."""
        chance = random.Random(self.chance.random())
        while not self.is_over.is_set():
            pair = customer(chance.randrange(PAIRS))
            try:
                conversation = service.record_message(1, pair, BUSINESS)
                did = chance.choice(["message", "answer", "extend", "close"])
                if did == "answer":
                    service.record_message(1, BUSINESS, pair, sender="agent")
                elif did == "extend":
                    with suppress(InvalidTransitionError):
                        service.extend_expiration(conversation.conv_id, 1)
                elif did == "close" and number == 0:
                    with suppress(InvalidTransitionError):
                        service.close_conversation(conversation.conv_id, "agent_closed")
                self.calls[did] += 1
            except DatabaseUnavailableError:
                self.calls["given up"] += 1
            except Exception as error:
                self.complaints.append(f"{type(error).__name__}: {error}")

    def hold_rows(self) -> None:
        """Keep a row locked for a while, again and again, as an application's own transactions do."""
        chance = random.Random(self.chance.random())
        while not self.is_over.is_set():
            with suppress(psycopg.Error), psycopg.connect(self.url.replace("+psycopg", "")) as other:
                for _ in count():
                    other.execute(
                        "SELECT FROM conversations WHERE status IN ('pending', 'progress') AND from_number = %s "
                        "FOR UPDATE",
                        [customer(chance.randrange(PAIRS))],
                    )
                    time.sleep(chance.uniform(0, LONGEST_HOLD_SECONDS))
                    other.rollback()
                    if self.is_over.is_set():
                        return

    def end_waiting_backends(self, number: int) -> None:
        """End so many backends in the very moment in which they wait for a row."""
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as other:
            while number:
                ended = other.execute(END_A_WAITING_BACKEND.encode()).fetchall()[0][0]
                number -= ended
                time.sleep(0.02)


def test_whatever_ends_the_wait_for_a_row_reaches_no_caller(
    durable_server: ServerProcess, chance: random.Random, outcome: Outcome
) -> None:
    url = migrated(durable_server)
    storm = Storm(url, chance)
    with closing(ConversationService(url)) as service, ThreadPoolExecutor(CALLERS + 2) as threads:
        run_sql(service.database, f"ALTER DATABASE lapse SET lock_timeout = '{LOCK_TIMEOUT}'")
        for number in range(PAIRS):
            service.record_message(1, customer(number), BUSINESS)
        running = [threads.submit(storm.call, service, number) for number in range(CALLERS)]
        running += [threads.submit(storm.hold_rows) for _ in range(2)]
        try:
            for _ in range(RESTARTS):
                storm.end_waiting_backends(TERMINATIONS // RESTARTS)
                durable_server.stop("fast")
                durable_server.start()
                wait_for_server(durable_server, 10)
        finally:
            storm.is_over.set()
        for thread in running:
            thread.result(PATIENCE_SECONDS)
        assert storm.complaints == []
        assert storm.calls["given up"] == 0
        assert min(storm.calls[did] for did in ("message", "answer", "extend")) > 0
        check_invariants(service.database)
        outcome.add(service.database, calls=storm.calls.total(), terminations=TERMINATIONS, restarts=RESTARTS)
