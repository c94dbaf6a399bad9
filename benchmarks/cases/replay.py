"""A made-up log is replayed into a SQLite database in a temporary file, as `lapse replay` does it.

Messages are recorded in groups of 2,000, and before each what was due of its pair. Reading the file and Python's start
are not in the time. The log has 30,000 messages of 3,000 customers over 30 days, in dialogues of a few minutes; one in
three is an answer.
"""

from __future__ import annotations

import random
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.profiles import profile_of
from benchmarks.results import Figure, Goal, Outcome, median
from lapse import ConversationService
from lapse.lifecycle import Sender
from lapse.replay import LoggedMessage, VirtualClock, replay
from lapse.store import migrate
from tests.support.backlog import BUSINESS, customer

TITLE = "Replay"
PROFILED = 5_000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def run(bench: Bench) -> Outcome:
    """Replay the log a few times."""
    messages = made_up_log(bench.rows(30_000), bench.rows(3_000, least=20))
    some = messages[:PROFILED]
    rates: list[float] = []
    for number in bench.rounds(3):
        path = bench.folder / f"replay{number}.db"
        rates.append(len(messages) / seconds_of_replay(path, messages))
        bench.say(f"round {number}: {rates[-1]:,.0f} messages a second")
    return Outcome(
        figures=[Figure("replay on SQLite in a temporary file, messages", median(rates), "1/s", Goal(3_000))],
        parameters={"messages": len(messages)},
        raw={"messages_per_second": rates},
        texts={
            "profile": profile_of(
                lambda: seconds_of_replay(bench.folder / "profiled.db", some), f"{len(some)} messages"
            )
        },
    )


def seconds_of_replay(path: Path, messages: list[LoggedMessage]) -> float:
    """Replay into a new file."""
    clock = VirtualClock()
    with closing(ConversationService(f"sqlite:///{path}", clock=clock)) as service:
        migrate(service.database)
        begin = time.perf_counter()
        replay(service, clock, messages)
        return time.perf_counter() - begin


def made_up_log(number: int, customers: int) -> list[LoggedMessage]:
    """Return messages in order of time; the same ones in every run."""
    chance = random.Random(1)
    messages: list[LoggedMessage] = []
    while len(messages) < number:
        moment = BEGIN + timedelta(seconds=chance.uniform(0, 30 * 86_400))
        address = customer(chance.randrange(customers))
        for place in range(chance.randint(1, 12)):
            answers = place % 3 == 2
            pair = (BUSINESS, address) if answers else (address, BUSINESS)
            messages.append(LoggedMessage(moment, 1, *pair, "sms", Sender.AGENT if answers else Sender.USER))
            moment += timedelta(seconds=chance.expovariate(1 / 60))
    return sorted(messages[:number], key=lambda message: message.at)
