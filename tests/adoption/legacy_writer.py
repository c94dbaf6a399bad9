"""The legacy application under load: writers in threads, and a ledger of every row as they left it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.adoption.legacy_application import BUSINESS
from tests.adoption.legacy_table import connect

COLUMNS = (
    "conv_id",
    "owner_id",
    "user_id",
    "from_number",
    "to_number",
    "status",
    "started_at",
    "ended_at",
    "updated_at",
    "expires_at",
    "channel",
    "phone_number",
    "context",
    "metadata",
)
ROW = ", ".join(COLUMNS)
ENDING = frozenset({"status", "ended_at"})
"""What lapse may change of a duplicate; nothing else of anything."""
OPEN = ("pending", "progress", "idle_timeout")
_CLOSED = ("agent_closed", "support_closed", "user_closed", "failed")

Row = dict[str, Any]


@dataclass
class Ledger:
    """What must be in the table: every row as it was read or written last, and what was noticed meanwhile."""

    rows: dict[int, Row] = field(default_factory=dict)
    ended_by_others: set[int] = field(default_factory=set)
    """Those that were found ended when they were written again."""
    problems: list[str] = field(default_factory=list)
    slowest_seconds: float = 0
    statements: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)

    def note(self, row: Row, assigned: Row) -> None:
        """Note a row that was written: but for what was assigned, and its updated_at, it must be as it was."""
        conv_id, before = row["conv_id"], self.rows.get(row["conv_id"], {})
        for name, value in assigned.items():
            if row[name] != value:
                self.problems.append(f"wrote {name} = {value!r} to {conv_id}, and got {row[name]!r}")
        changed = {name for name, value in before.items() if row[name] != value} - assigned.keys() - {"updated_at"}
        if changed - ENDING:
            self.problems.append(f"{conv_id} had changed in {sorted(changed)}: {before} became {row}")
        if changed:
            self.ended_by_others.add(conv_id)
        self.rows[conv_id] = row


class LegacyWriter:
    """Writes to pairs of its own, and to its share of the rows that were there before."""

    def __init__(self, url: str, number: int, chance: random.Random, old_rows: Sequence[Row], pairs: int = 40) -> None:
        self.ledger = Ledger()
        self._chance = chance
        self._connection = connect(url)
        self._number = number
        self._pairs = pairs
        self._old_rows = [row["conv_id"] for row in old_rows]
        self.ledger.rows = {row["conv_id"]: row for row in old_rows}
        self._newest: dict[int, int] = {}
        self._did = 0

    def close(self) -> None:
        """Close its connection."""
        self._connection.close()

    def step(self) -> None:
        """Do one thing; whatever goes wrong is noted."""
        kinds = (self._begin, self._set_status, self._end, self._touch, self._find, self._replace, self._old_row)
        (kind,) = self._chance.choices(kinds, weights=(30, 15, 10, 15, 10, 10, 10))
        pair = self._chance.randrange(self._pairs)
        self._did += 1
        name = kind.__name__.strip("_")
        self.ledger.by_kind[name] = self.ledger.by_kind.get(name, 0) + 1
        try:
            kind(pair)
        except psycopg.Error as error:
            self.ledger.problems.append(f"{name} got {type(error).__name__}: {error}")

    # --- what it does ---------------------------------------------------------------------------------------------

    def _begin(self, pair: int) -> None:
        """Begin a conversation, as this application does even where the pair has an open one."""
        given = {
            "owner_id": 100 + self._number,
            "from_number": self._chance.choice(self._spellings(pair)),
            "to_number": BUSINESS,
            "status": self._chance.choice(["pending", "progress"]),
            "phone_number": f"{self._number}-{self._did}",
        }
        names, places = ", ".join(given), ", ".join(["%s"] * len(given))
        (row,) = self._run(
            f"INSERT INTO conversations ({names}, expires_at) VALUES ({places}, now() + interval '1 day') "
            f"RETURNING {ROW}",
            *given.values(),
        )
        self._run("INSERT INTO messages (conv_id, body) VALUES (%s, 'hello') RETURNING message_id", row["conv_id"])
        self.ledger.note(row, given)
        self._newest[pair] = row["conv_id"]

    def _set_status(self, pair: int) -> None:
        if self._is_open(pair):
            status = self._chance.choice(["pending", "progress", "idle_timeout"])
            self._update(self._newest[pair], {"status": status})

    def _end(self, pair: int) -> None:
        if self._is_open(pair):
            self._update(self._newest[pair], {"status": self._chance.choice(_CLOSED)}, "ended_at = now()")

    def _touch(self, pair: int) -> None:
        if pair in self._newest:
            self._update(self._newest[pair], {}, "updated_at = now()")

    def _replace(self, pair: int) -> None:
        """End a conversation and begin the next one, in one transaction that takes its time."""
        with self._connection.transaction():
            self._end(pair)
            time.sleep(self._chance.uniform(0, 0.02))
            self._begin(pair)
            begin = time.monotonic()
        self._took(time.monotonic() - begin)  # COMMIT

    def _old_row(self, _pair: int) -> None:
        self._update(self._chance.choice(self._old_rows), {"phone_number": f"{self._number}-{self._did}"})

    def _find(self, pair: int) -> None:
        """Look for the pair's active conversation; its newest must be found, if that is active."""
        found = self._run(
            f"SELECT {ROW} FROM conversations WHERE owner_id = %s AND from_number = ANY (%s) AND to_number = %s "
            "AND status IN ('pending', 'progress') ORDER BY started_at DESC LIMIT 1",
            100 + self._number,
            list(self._spellings(pair)),
            BUSINESS,
        )
        if self._is_open(pair) and self.ledger.rows[self._newest[pair]]["status"] != "idle_timeout":
            expected = [self.ledger.rows[self._newest[pair]]]
            if found != expected:
                self.ledger.problems.append(f"looked for {expected}, and found {found}")

    # --- how it does it -------------------------------------------------------------------------------------------

    def _spellings(self, pair: int) -> tuple[str, str]:
        number = f"+1303{self._number:03}{pair:04}"
        return number, f"whatsapp:{number}"

    def _is_open(self, pair: int) -> bool:
        return pair in self._newest and self.ledger.rows[self._newest[pair]]["status"] in OPEN

    def _update(self, conv_id: int, values: Row, *more: str) -> None:
        assignments = ", ".join([*(f"{name} = %s" for name in values), *more])
        rows = self._run(
            f"UPDATE conversations SET {assignments} WHERE conv_id = %s RETURNING {ROW}", *values.values(), conv_id
        )
        if len(rows) != 1:
            self.ledger.problems.append(f"updated {len(rows)} rows of {conv_id}")
            return
        assigned = {**values, **{name: rows[0][name] for name in COLUMNS if any(name in text for text in more)}}
        self.ledger.note(rows[0], assigned)

    def _run(self, query: str, *values: Any) -> list[Row]:
        begin = time.monotonic()
        cursor = self._connection.execute(query.encode(), values)
        self._took(time.monotonic() - begin)
        return [dict(zip(COLUMNS, row, strict=False)) for row in cursor.fetchall()]

    def _took(self, seconds: float) -> None:
        self.ledger.statements += 1
        self.ledger.slowest_seconds = max(self.ledger.slowest_seconds, seconds)


def read_all(connection: psycopg.Connection[Any]) -> dict[int, Row]:
    """Return every row of the table, with the application's columns."""
    found = connection.execute(f"SELECT {ROW} FROM conversations".encode())
    return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in found}


def _reports(url: str, chance: random.Random, stopping: threading.Event) -> None:
    """Read like a page of figures: a transaction that stays open for a moment, again and again."""
    with connect(url) as connection:
        while not stopping.wait(0.3):
            with connection.transaction():
                connection.execute("SELECT status, count(*) FROM conversations GROUP BY status").fetchall()
                time.sleep(chance.uniform(0.05, 0.25))


@contextmanager
def running_application(url: str, number: int, chance: random.Random, per_second: float = 60) -> Iterator[list[Ledger]]:
    """Run so many writers, and a reader beside them; hand out the writers' ledgers, complete at the end."""
    with connect(url) as connection:
        rows = list(read_all(connection).values())
    writers = [LegacyWriter(url, place, random.Random(chance.random()), rows[place::number]) for place in range(number)]
    stopping = threading.Event()

    def write(writer: LegacyWriter) -> None:
        while not stopping.wait(1 / per_second):
            writer.step()

    threads = [threading.Thread(target=write, args=[writer]) for writer in writers]
    threads.append(threading.Thread(target=_reports, args=[url, random.Random(chance.random()), stopping]))
    for thread in threads:
        thread.start()
    try:
        yield [writer.ledger for writer in writers]
    finally:
        stopping.set()
        for thread in threads:
            thread.join(30)
        for writer in writers:
            writer.close()
    assert not any(thread.is_alive() for thread in threads)
