"""An hour of messages in lists of 500, one list after the other, on 10,000 conversations among 100,000.

Autovacuum runs with its default settings. The hour is cut into 60 parts, after each of which the server's counters and
the sizes of the table and of its indexes are noted; HOT is `n_tup_hot_upd` of `n_tup_upd`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg

from benchmarks.backlogs import live_customers
from benchmarks.bench import Bench, connect
from benchmarks.lists import LIST, lists_of
from benchmarks.results import Figure, Goal, Outcome
from lapse import ConversationService, Message

TITLE = "An hour of lists"
SECONDS, PARTS = 3_600.0, 60
_STATE = """
    SELECT n_tup_upd, n_tup_hot_upd, n_dead_tup, autovacuum_count,
        pg_relation_size(relid)::float8 / 1e6, pg_indexes_size(relid)::float8 / 1e6
    FROM pg_stat_user_tables WHERE relname = 'conversations'
"""
_KEYS = ("updates", "hot_updates", "dead", "autovacuums", "table_mb", "indexes_mb")


def run(bench: Bench) -> Outcome:
    """Send lists for so long."""
    backlog = bench.backlog(between=90_000, live=10_000)
    lists = itertools.cycle(lists_of(live_customers(backlog)))
    seconds = bench.seconds(SECONDS, least=2)
    parts: list[dict[str, Any]] = []
    with bench.filled(backlog) as url, connect(url) as observer:
        first = state(observer)
        with closing(ConversationService(url)) as service:
            begin = time.monotonic()
            for part in range(1, PARTS + 1):
                sent = send(service, lists, begin + seconds * part / PARTS)
                parts.append({"sent": sent, **state(observer)})
            took = time.monotonic() - begin
        time.sleep(1)  # a session's counters are the server's a moment later, at the latest when it ends
        last = state(observer)
    messages = sum(part["sent"] for part in parts)
    hot = 100 * (last["hot_updates"] - first["hot_updates"]) / (last["updates"] - first["updates"])
    bench.say(f"{messages:,} messages in {took:.0f} s: {hot:.2f} % HOT; table {last['table_mb']:.0f} MB")
    return Outcome(
        figures=[
            Figure("HOT updates in an hour of lists of 500", hot, "%", Goal(98)),
            Figure("how long it ran", took, "s"),
            Figure("messages", messages / took, "1/s"),
            Figure("size of the table before", first["table_mb"], "MB"),
            Figure("size of the table after it", last["table_mb"], "MB"),
            Figure("size of its indexes before", first["indexes_mb"], "MB"),
            Figure("size of its indexes after it", last["indexes_mb"], "MB"),
            Figure("times that autovacuum was there", last["autovacuums"] - first["autovacuums"]),
        ],
        parameters={"messages": messages, "conversations": backlog.live, "messages_in_a_list": LIST},
        raw={"parts": parts, "before": first, "after": last},
    )


def send(service: ConversationService, lists: Iterator[list[Message]], until: float) -> int:
    """Send lists until this moment, and return the number of messages."""
    sent = 0
    while time.monotonic() < until:
        sent += len(service.record_messages(next(lists)))
    return sent


def state(observer: psycopg.Connection) -> dict[str, Any]:
    """Return the server's counters of the table, and its sizes."""
    row = observer.execute(_STATE).fetchone()
    return dict(zip(_KEYS, row or (), strict=True))


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw the share of each part, and the size of the table."""
    states = [raw["before"], *raw["parts"]]
    shares = [
        100 * (new["hot_updates"] - old["hot_updates"]) / max(new["updates"] - old["updates"], 1)
        for old, new in itertools.pairwise(states)
    ]
    axes.plot(range(1, len(shares) + 1), shares, label="HOT, per cent")
    axes.set(xlabel="sixtieth part of the run", ylabel="per cent HOT", ylim=(0, 105))
    sizes = axes.twinx()
    sizes.plot(range(len(states)), [one["table_mb"] for one in states], color="tab:orange", label="table, MB")
    sizes.set(ylabel="MB", ylim=(0, None))
    axes.legend(loc="lower left", fontsize="small")
    sizes.legend(loc="lower right", fontsize="small")
