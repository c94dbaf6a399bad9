"""The statements that could note a message: what was tried.

- **Insert first**: `INSERT … ON CONFLICT DO UPDATE`, lapse's for a pair that it does not know.
- **Update first**: an `UPDATE`, and in the same statement an `INSERT … ON CONFLICT` where it found nothing.
- **Bare update**: an `UPDATE` alone, which cannot open a conversation; like lapse's for a pair that it knows.

All on plain psycopg, without prepared statements, on 10,000 existing conversations, in turns of 2,000 messages; the
bytes of the log are counted as above.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import fields
from typing import Any

import psycopg

from benchmarks.backlogs import live_customers
from benchmarks.bench import Bench
from benchmarks.messages import sent_for
from benchmarks.results import Figure, Outcome, median
from benchmarks.wal import WalMeter
from lapse import Conversation, ConversationService

TITLE = "Statements for a message"
TURN = 2_000
_NAMES = [field.name for field in fields(Conversation)]
_COLUMNS = ", ".join(_NAMES)
_READ_AS_LAPSE_DOES = ", ".join(
    f"{name}::text AS {name}" if name in ("context", "metadata") else name for name in _NAMES
)
_UPDATE = f"""
    UPDATE conversations SET
        updated_at = greatest(updated_at, now()),
        last_inbound_at = greatest(last_inbound_at, now())
    WHERE owner_id = %(new_owner_id)s AND channel = %(new_channel)s AND session_key = %(new_session_key)s
        AND status IN ('pending', 'progress', 'idle_timeout') AND status IN ('pending', 'progress')
        AND expires_at >= now()
    RETURNING {_READ_AS_LAPSE_DOES}
"""


def run(bench: Bench) -> Outcome:
    """Let the three take turns."""
    backlog = bench.backlog(between=90_000, live=10_000)
    customers = live_customers(backlog)
    turn = bench.rows(TURN)
    with (
        bench.filled(backlog) as url,
        closing(ConversationService(url)) as service,
        psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection,
    ):
        sent = sent_for(service, customers)
        insert_first = sent[0][0]
        statements = {
            "insert first": insert_first,
            "update first": update_first(insert_first),
            "bare update": _UPDATE,
        }
        cursor, meter = connection.cursor(), WalMeter(url)
        microseconds: dict[str, list[float]] = {name: [] for name in statements}
        wal: dict[str, list[float]] = {name: [] for name in statements}
        for number in bench.rounds(5):
            for name, sql in statements.items():
                meter.start()
                begin = time.perf_counter()
                for place in range(turn):
                    send(cursor, sql, sent[(number * turn + place) * 7919 % len(sent)][1])
                microseconds[name].append(1e6 * (time.perf_counter() - begin) / turn)
                wal[name].append(meter.stop().bytes / turn)
        meter.close()
    for name in statements:
        bench.say(f"{name}: {median(microseconds[name]):.0f} µs, {median(wal[name]):.0f} bytes of WAL")
    return Outcome(
        figures=[
            *(Figure(f"{name}, time", median(found), "µs") for name, found in microseconds.items()),
            *(Figure(f"{name}, WAL", median(found), "bytes") for name, found in wal.items()),
        ],
        parameters={"conversations": len(customers), "messages_in_a_turn": turn},
        raw={"microseconds": microseconds, "wal_bytes": wal},
    )


def update_first(insert_first: str) -> str:
    """Return lapse's statement, changed to insert only where an UPDATE has found no conversation."""
    insert = insert_first.replace("VALUES (", "SELECT ").replace(
        ") ON CONFLICT", " WHERE NOT EXISTS (SELECT FROM noted) ON CONFLICT"
    )
    return f"""
        WITH noted AS ({_UPDATE}), opened AS ({insert})
        SELECT {_COLUMNS} FROM noted UNION ALL SELECT {_COLUMNS} FROM opened
    """


def send(cursor: psycopg.Cursor[Any], sql: str, parameters: dict[str, Any]) -> None:
    """Run the statement and fetch its row."""
    if cursor.execute(sql.encode(), parameters).fetchone() is None:
        raise ValueError("the message found no conversation")
