"""What message ids cost: lists of 500 with ids, with and without an index by which old receipts could be found.

Three copies of a database with 10,000 open conversations and 1,000,000 receipts of eight days: as lapse makes the
table; with a btree index on `seen_at`; with a BRIN index on it. They take turns of 40 lists with ids that nobody has
seen, made while the clock stands still; `pg_walinspect` counts the bytes of the log, without full page images. A ratio
is the median over rounds.

Then the walk of retention on a fourth copy, piece after piece as the worker does it, without its pauses: once where
nothing is old enough, once where an eighth is.
"""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack, closing
from typing import Any

from benchmarks.backlogs import CHANNEL, OWNERS, live_customers
from benchmarks.bench import Bench, connect
from benchmarks.lists import message_of, numbers_of
from benchmarks.results import Figure, Outcome, median
from benchmarks.wal import WalMeter
from lapse import ConversationService
from lapse import Outcome as MessageOutcome
from lapse.store import Database
from lapse.store.operations import receipts

TITLE = "Receipts"
RECEIPTS, DAYS = 1_000_000, 8
LISTS, ROUNDS = 40, 6
PLAIN = "no index on seen_at"
INDEXES = {
    PLAIN: "",
    "a btree index": "CREATE INDEX ON message_receipts (seen_at)",
    "a BRIN index": "CREATE INDEX ON message_receipts USING brin (seen_at)",
}
_FILL = f"""
    INSERT INTO message_receipts (owner_id, channel, message_id, conv_id, seen_at)
    SELECT n %% {OWNERS} + 1, '{CHANNEL}', 'wamid.' || md5(n::text), gen_random_uuid(),
        now() - interval '{DAYS} days' + (n::float8 / %(rows)s) * interval '{DAYS} days'
    FROM generate_series(1, %(rows)s::bigint) AS n
"""


def run(bench: Bench) -> Outcome:
    """Let the three take turns, then walk."""
    backlog, rows = bench.backlog(between=90_000, live=10_000), bench.rows(RECEIPTS)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in INDEXES}
    with bench.filled(backlog) as filled, ExitStack() as stack:
        bench.say(f"filling a table with {rows:,} receipts …")
        with connect(filled) as connection:
            connection.execute(_FILL, {"rows": rows})
            connection.execute("VACUUM ANALYZE")
        template = filled.rpartition("/")[2]
        urls = {name: stack.enter_context(bench.server.copy_of(template)) for name in INDEXES}
        sides = {name: stack.enter_context(closing(Side(urls[name], live_customers(backlog)))) for name in INDEXES}
        for name, index in INDEXES.items():
            sides[name].prepare(index)
        for number in bench.rounds(ROUNDS):
            for name in sorted(sides, reverse=number % 2 == 0):
                rounds[name].append(sides[name].turn(LISTS))
        with bench.server.copy_of(template) as url:
            walks = {name: walk(url, seconds) for name, seconds in walks_of(DAYS)}
    for name, found in rounds.items():
        told = ", ".join(f"{median(one[key] for one in found):,.0f} {key}" for key in ("per_second", "wal_bytes"))
        bench.say(f"{name}: {told}")
    return Outcome(
        figures=[*figures(rounds), *figures_of_walks(walks)],
        parameters={"receipts": rows, "conversations": backlog.live, "lists_in_a_turn": LISTS},
        raw={"rounds": rounds, "walks": walks},
    )


class Side:
    """One copy of the database."""

    def __init__(self, url: str, customers: range) -> None:
        """Connect."""
        self._url = url
        self._numbers = numbers_of(customers)
        self._service = ConversationService(url)
        self._meter = WalMeter(url)

    def close(self) -> None:
        """Disconnect."""
        self._meter.close()
        self._service.close()

    def prepare(self, index: str) -> None:
        """Make the index, and let each pair be known."""
        if index:
            with connect(self._url) as connection:
                connection.execute(index.encode())
        self.turn(len(self._numbers))

    def turn(self, number: int) -> dict[str, float]:
        """Send so many lists, and return messages a second and the bytes of the log a message.

        Raises:
            ValueError: a message did not continue a conversation.
        """
        passed, messages = 0.0, 0
        self._meter.start()
        for place in range(number):
            numbers = self._numbers[place % len(self._numbers)]
            some = [message_of(customer, f"wamid.{secrets.token_hex(16)}") for customer in numbers]
            begin = time.perf_counter()
            results = self._service.record_messages(some)
            passed += time.perf_counter() - begin
            messages += len(results)
            if {getattr(result, "outcome", result) for result in results} != {MessageOutcome.CONTINUED}:
                raise ValueError(f"not all of {len(results)} messages continued a conversation: {results[0]!r}")
        return {"per_second": messages / passed, "wal_bytes": self._meter.stop().bytes / messages}


def walks_of(days: int) -> list[tuple[str, int]]:
    """Return the walks by name, with the seconds for which each keeps receipts."""
    day = 24 * 60 * 60
    return [("nothing is old enough", (days + 1) * day), ("an eighth is", (days - 1) * day)]


def walk(url: str, seconds: int) -> dict[str, Any]:
    """Walk through the table once, and return how long it took, in all and for each piece."""
    taken: list[float] = []
    deleted = 0
    with closing(Database(url)) as database, closing(WalMeter(url)) as meter:
        extent = database.run(receipts.extent)
        meter.start()
        for first in range(0, extent, receipts.PIECE["postgresql"]):
            begin = time.perf_counter()
            deleted += database.run(receipts.delete_piece, first, seconds)
            taken.append(time.perf_counter() - begin)
        wal = meter.stop()
    return {"seconds": sum(taken), "piece_seconds": taken, "deleted": deleted, "wal_bytes": wal.bytes}


def figures(rounds: dict[str, list[dict[str, float]]]) -> list[Figure]:
    """Return what each index costs, then the numbers themselves."""

    def ratio(name: str, key: str) -> float:
        return median(one[key] / plain[key] for one, plain in zip(rounds[name], rounds[PLAIN], strict=True))

    others = [name for name in INDEXES if name != PLAIN]
    return [
        *(
            Figure(f"messages a second with {name}, against none", ratio(name, "per_second"), "times")
            for name in others
        ),
        *(Figure(f"WAL per message with {name}, against none", ratio(name, "wal_bytes"), "times") for name in others),
        *(Figure(f"messages, {name}", median(one["per_second"] for one in of), "1/s") for name, of in rounds.items()),
        *(
            Figure(f"WAL per message, {name}", median(one["wal_bytes"] for one in of), "bytes")
            for name, of in rounds.items()
        ),
    ]


def figures_of_walks(walks: dict[str, dict[str, Any]]) -> list[Figure]:
    """Return what a walk takes."""
    return [
        figure
        for name, found in walks.items()
        for figure in (
            Figure(f"a walk where {name}", found["seconds"], "s"),
            Figure(f"its pieces, {name}", len(found["piece_seconds"])),
            Figure(f"its longest piece, {name}", 1000 * max(found["piece_seconds"], default=0.0), "ms"),
            Figure(f"receipts that it deleted, {name}", found["deleted"]),
            Figure(f"WAL that it wrote, {name}", found["wal_bytes"] / 1e6, "MB"),
        )
    ]
