"""Messages are recorded in groups while processes, sessions, the server and commits are struck: none counts twice."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from lapse import ConversationService, Database, MessageResult
from tests.chaos.conftest import migrated
from tests.chaos.cutting_proxy import CuttingProxy
from tests.chaos.group_sender import Orders, message_of
from tests.chaos.group_senders import Senders, Sent, running_senders
from tests.chaos.ledger import ALLOWED_ERRORS, SHOWN, moment
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.chaos.test_lost_backends import Faults
from tests.conftest import NewDatabase
from tests.support.invariants import check_invariants
from tests.support.postgres_process import ServerProcess
from tests.support.sql import run_sql

THREADS, TASKS = 32, 64
PAIRS = scaled(small=100, full=400)
KILLS = scaled(small=3, full=60)
TERMINATIONS = scaled(small=3, full=100)
RESTARTS = scaled(small=1, full=10)
CUTS = scaled(small=10, full=300)
SQLITE_KILLS = scaled(small=4, full=100)
CHUNK = 2_000


def orders_of(chance: random.Random, *urls: str) -> list[Orders]:
    """Return a process of threads and one of tasks for each URL."""
    return [
        Orders(url=url, name=f"{chance.randrange(2**32):08x}", kind=kind, callers=callers, pairs=PAIRS)
        for url in urls
        for kind, callers in (("threads", THREADS), ("tasks", TASKS))
    ]


def contents(database: Database) -> list[Any]:
    return [
        sorted(map(str, run_sql(database, f"SELECT * FROM {table}")))
        for table in ("conversations", "conversation_events")
    ]


def check_sent(database: Database, sent: Sequence[Sent]) -> None:
    """Fail where what was acknowledged is not there, without its effect, or there twice."""
    receipts = {row.message_id: row for row in run_sql(database, "SELECT message_id, conv_id FROM message_receipts")}
    query = "SELECT conv_id, updated_at, last_inbound_at, last_outbound_at FROM conversations"
    rows = {str(row.conv_id): row for row in run_sql(database, query)}
    problems = []
    for one in sent:
        if not one.is_acknowledged or one.answer is None:
            continue
        receipt, row = receipts.get(one.line["id"]), rows.get(one.answer["conv_id"])
        if receipt is None or row is None:
            problems.append(f"acknowledged, but not there: {one}")
        elif str(receipt.conv_id) != one.answer["conv_id"]:
            problems.append(f"its receipt names another conversation, {receipt.conv_id}: {one}")
        else:
            side = row.last_inbound_at if one.line["sender"] == "user" else row.last_outbound_at
            begun = moment(one.line["begins"])
            if side is None or moment(side) < begun or moment(row.updated_at) < begun:
                problems.append(f"without its effect: {one}, {row}")
    opened = Counter(one.answer["conv_id"] for one in sent if one.answer and one.answer.get("outcome") == "opened")
    problems += [f"opened by {times} messages: {conv_id}" for conv_id, times in opened.items() if times > 1]
    wrong = [one for one in sent if one.error is not None and one.error not in ALLOWED_ERRORS]
    problems += [f"an error that the documents do not name: {one}" for one in wrong]
    assert not problems, f"{len(problems)} problems, such as\n" + "\n".join(problems[:SHOWN])


def send_again(service: ConversationService, sent: Sequence[Sent]) -> Counter[str]:
    """Send these messages once more, with the ids that they had."""
    outcomes = Counter[str]()
    for begin in range(0, len(sent), CHUNK):
        messages = [message_of(one.line) for one in sent[begin : begin + CHUNK]]
        for result in service.record_messages(messages):
            outcomes[result.outcome.value if isinstance(result, MessageResult) else type(result).__name__] += 1
    return outcomes


def check_afterwards(url: str, sent: Sequence[Sent], outcome: Outcome, **counts: float) -> None:
    """Check what is there, send what is not known to be there, then everything, which changes nothing."""
    with closing(ConversationService(url)) as service:
        database = service.database
        check_invariants(database)
        check_sent(database, sent)
        unknown = [one for one in sent if not one.is_acknowledged]
        outcomes = send_again(service, unknown)
        assert not [name for name in outcomes if name.endswith("Error")], outcomes
        check_invariants(database)
        assert run_sql(database, "SELECT count(*) FROM message_receipts") == [(len(sent),)]
        before = contents(database)
        assert send_again(service, sent) == {"copy": len(sent)}
        assert contents(database) == before
        told = Counter(one.answer["outcome"] for one in sent if one.is_acknowledged and one.answer)
        outcome.add(
            database,
            **counts,
            messages=len(sent),
            opened=told["opened"],
            unanswered=len(unknown),
            of_them_recorded=outcomes["copy"],
            errors_to_callers=sum(one.error is not None for one in sent),
            conversations=len(before[0]),
            events=len(before[1]),
        )


def strike(chance: random.Random, senders: Senders, plan: list[Callable[[], None]], seconds: float) -> None:
    """Do what is planned, in an order by chance, with pauses in which messages are sent."""
    chance.shuffle(plan)
    for fault in plan:
        time.sleep(chance.uniform(0.1, seconds))
        fault()
    time.sleep(0.5)
    senders.stop()


def test_groups_on_a_server_under_fire_count_each_message_once(
    durable_server: ServerProcess, chance: random.Random, outcome: Outcome
) -> None:
    outcome.case = "postgresql"
    url = migrated(durable_server)
    faults = Faults(durable_server, chance)
    proxy = CuttingProxy(url, chance, CUTS, of_transactions=0.2, of_statements=0.05)
    with closing(proxy):
        proxy.open()
        with running_senders([*orders_of(chance, url), *orders_of(chance, proxy.url)]) as senders:
            plan: list[Callable[[], None]] = [lambda: senders.kill_one(chance)] * KILLS
            plan += [faults.terminate] * TERMINATIONS + [faults.restart] * RESTARTS
            strike(chance, senders, plan, 0.6)
    counts = {"kills": KILLS, "terminations": TERMINATIONS, "restarts": RESTARTS, "cuts": proxy.cuts.total()}
    assert proxy.cuts.total() > 0
    check_afterwards(url, senders.sent, outcome, **counts)


def test_groups_on_one_file_whose_processes_are_killed_count_each_message_once(
    new_database: NewDatabase, chance: random.Random, outcome: Outcome
) -> None:
    outcome.case = "sqlite"
    url = new_database("sqlite")
    with running_senders(orders_of(chance, url)) as senders:
        strike(chance, senders, [lambda: senders.kill_one(chance)] * SQLITE_KILLS, 1)
    check_afterwards(url, senders.sent, outcome, kills=SQLITE_KILLS)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
