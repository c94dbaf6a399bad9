"""Conversations that come due one after the other, at a steady rate: half by their expiry, half by their timeout."""

from __future__ import annotations

import threading
import time

import psycopg

from benchmarks.background import Background
from benchmarks.backlogs import CHANNEL, IDLE_TIMEOUT_SECONDS
from benchmarks.bench import connect
from tests.support.backlog import BUSINESS

STEP_SECONDS = 0.1
_INSERT = f"""
    INSERT INTO conversations (
        owner_id, conv_id, channel, session_key, from_number, to_number, status, started_at, updated_at,
        last_inbound_at, expires_at, idle_check_at, idle_timeout_seconds)
    SELECT 1, gen_random_uuid(), '{CHANNEL}', address || '::{BUSINESS}', address, '{BUSINESS}', 'pending',
        began, began, began,
        CASE WHEN by_expiry THEN deadline ELSE deadline + interval '1 day' END,
        CASE WHEN by_expiry THEN deadline + interval '1 day' ELSE deadline END, {IDLE_TIMEOUT_SECONDS}
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n,
        LATERAL (SELECT '+1213' || lpad(n::text, 7, '0') AS address, n %% 2 = 0 AS by_expiry,
            now() + (%(lead)s + (n - %(first)s) * %(gap)s) * interval '1 second' AS deadline) AS due,
        LATERAL (SELECT deadline - {IDLE_TIMEOUT_SECONDS} * interval '1 second' AS began) AS start
"""


def generate(
    connection: psycopg.Connection,
    *,
    per_second: float,
    lead_seconds: float,
    number: int | None = None,
    over: threading.Event | None = None,
) -> None:
    """Insert so many conversations, or until it is over, at a steady rate; each is due `lead_seconds` later."""
    over = over or threading.Event()
    step = round(per_second * STEP_SECONDS)
    begin, first = time.monotonic(), 1
    while number is None or first <= number:
        if over.wait(max(begin + first / per_second - time.monotonic(), 0)):
            return
        last = first + step - 1 if number is None else min(first + step - 1, number)
        connection.execute(_INSERT, {"first": first, "last": last, "lead": lead_seconds, "gap": 1 / per_second})
        first = last + 1


def arrivals(url: str, per_second: float, lead_seconds: float = 1) -> Background:
    """Let conversations come due while it is entered; those that are not due at the end stay."""

    def insert(over: threading.Event) -> None:
        with connect(url) as connection:
            generate(connection, per_second=per_second, lead_seconds=lead_seconds, over=over)

    return Background(insert)
