"""Tables with a past: closed conversations, due ones among them, live ones after them; in the order of their start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.processes import NOW, running
from tests.support.backlog import BUSINESS

OWNERS = 100
CHANNEL = "sms"
IDLE_TIMEOUT_SECONDS = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many conversations there are of each kind.

    Before the due ones lie `history` closed ones; among the due ones, evenly, `between` closed ones; after them `live`
    ones, which are open and not due.
    """

    due: int
    between: int = 0
    history: int = 0
    live: int = 0

    @property
    def rows(self) -> int:
        """Return how many conversations there are."""
        return self.history + self.between + self.due + self.live


# Ids are UUIDv7 of the moment of the start, as lapse gives them. The latest due one has been due for a minute. No idle
# check comes before tomorrow, however long the benchmarks take: what ends, ends by its expiry.
_FILL = f"""
    INSERT INTO conversations (
        owner_id, conv_id, channel, session_key, from_number, to_number, status, version, started_at, updated_at,
        last_inbound_at, ended_at, expires_at, idle_check_at, idle_timeout_seconds)
    SELECT
        n %% {OWNERS} + 1,
        (lpad(to_hex((extract(epoch FROM started_at) * 1000)::bigint), 12, '0') || '7'
            || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid,
        '{CHANNEL}', address || '::{BUSINESS}', address, '{BUSINESS}',
        CASE WHEN is_open THEN 'pending' ELSE 'agent_closed' END,
        CASE WHEN is_open THEN 0 ELSE 1 END,
        started_at, last_activity, last_activity,
        CASE WHEN is_open THEN NULL ELSE last_activity END,
        started_at + interval '1 day', now() + interval '1 day' + n * interval '1 millisecond', {IDLE_TIMEOUT_SECONDS}
    FROM
        generate_series(1, %(rows)s::bigint) AS n,
        LATERAL (SELECT
            '+1212' || lpad(n::text, 7, '0') AS address,
            n > %(rows)s - %(live)s AS is_live,
            n > %(history)s AND n <= %(rows)s - %(live)s
                AND (n - %(history)s) * %(due)s / %(mixed)s > (n - 1 - %(history)s) * %(due)s / %(mixed)s AS is_due
        ) AS kind,
        LATERAL (SELECT
            is_live OR is_due AS is_open,
            now() + CASE WHEN is_live THEN interval '-1 hour'
                ELSE interval '-1 day -1 minute' + (n - %(rows)s) * interval '10 milliseconds' END AS started_at
        ) AS start,
        LATERAL (SELECT
            CASE WHEN is_open THEN now() ELSE started_at + interval '5 minutes' END AS last_activity
        ) AS end_
"""
_FILL_EVENTS = """
    INSERT INTO conversation_events (
        owner_id, conv_id, version, type, from_status, to_status, reason, actor, occurred_at)
    SELECT owner_id, conv_id, 1, 'closed', 'pending', status, 'solved', 'agent:7', ended_at
    FROM conversations WHERE status = 'agent_closed'
"""
_PLAIN_INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'conversations'
    AND indexname NOT IN (SELECT conname FROM pg_constraint)
"""


def fill(url: str, backlog: Backlog, source: Path = NOW) -> None:
    """Give an empty database the schema of this source, and this backlog."""
    with running("benchmarks.helpers.migration", url=url, source=source) as process:
        process.hear()
    parameters = {
        "rows": backlog.rows,
        "live": backlog.live,
        "due": backlog.due,
        "history": backlog.history,
        "mixed": max(backlog.due + backlog.between, 1),
    }
    with psycopg.connect(url, autocommit=True) as connection:
        indexes = connection.execute(_PLAIN_INDEXES).fetchall()
        # Built at the end, which takes a fraction of the time.
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute(_FILL, parameters)
        connection.execute(_FILL_EVENTS)
        for _, definition in indexes:
            connection.execute(definition)
        connection.execute("CREATE EXTENSION pg_prewarm")
        connection.execute("VACUUM ANALYZE")


def live_customers(backlog: Backlog) -> range:
    """Return the numbers of the customers whose conversation is live."""
    return range(backlog.rows - backlog.live + 1, backlog.rows + 1)


def owner_of(customer: int) -> int:
    """Return the owner of a customer's conversation."""
    return customer % OWNERS + 1
