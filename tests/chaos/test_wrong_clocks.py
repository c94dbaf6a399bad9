"""Workers whose clocks are an hour fast or slow do exactly the same as one whose clock is right."""

from __future__ import annotations

from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lapse import Database
from tests.chaos.checks import check_all, wait_until_finished
from tests.chaos.fleet import Fleet, running_fleet
from tests.chaos.ledger import History, moment
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.conftest import SERVERS, NewDatabase
from tests.support.backlog import IDLE_TIMEOUT, insert_conversations
from tests.support.require_program import missing

CLOCKS = {"fast": timedelta(hours=1), "slow": -timedelta(hours=1), "right": timedelta(0)}
CONVERSATIONS = scaled(small=40, full=2_000)
SOON = timedelta(seconds=4)
"""When the first deadline is: workers have started by then, and wait for it."""
SPREAD = timedelta(seconds=scaled(small=3, full=30))
LATEST_SECONDS = scaled(small=10, full=3)
"""A wait computed with a wrong clock would be an hour off; the rest is for a busy machine. The quick run
has all other tests beside it."""
IDLE_SECONDS = round(IDLE_TIMEOUT.total_seconds())
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def shifted(clock: str) -> dict[str, str]:
    """Return what shifts the clock of a process, but not its measure of the time that passes."""
    return {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME": f"{CLOCKS[clock].total_seconds():+.0f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def insert_lives(url: str) -> None:
    """Write conversations whose deadlines are in the next seconds: one half will be idle, the other expired."""
    half = CONVERSATIONS // 2
    step = SPREAD / half
    with closing(Database(url)) as database:
        insert_conversations(database, range(half), silent_for=IDLE_TIMEOUT - SOON, step=step)
        insert_conversations(database, range(half, 2 * half), expires_in=SOON, step=step)


def check_shift(fleet: Fleet, clock: str) -> None:
    """Fail where the worker's clock is not wrong by what it should be."""
    started = moment(fleet.running[0].wait_for("worker started")["timestamp"])
    assert abs(started - datetime.now(UTC) - CLOCKS[clock]) < timedelta(minutes=1)


def lives(history: History) -> list[tuple[str, ...]]:
    """Return what happened to each conversation, in the order of the pairs."""
    rows = sorted(history.conversations.items(), key=lambda item: item[1].session_key)
    return [tuple(event.type for event in history.events[conv_id]) for conv_id, _ in rows]


def lags(history: History) -> list[float]:
    """Return how many seconds after its deadline each conversation ended."""
    events = (event for of_one in history.events.values() for event in of_one)
    return [(moment(event.occurred_at) - moment(event.deadline)).total_seconds() for event in events]


@pytest.mark.parametrize("way", ["alone", "together"])
def test_wrong_clocks_of_workers_change_nothing(
    request: pytest.FixtureRequest, new_database: NewDatabase, outcome: Outcome, way: str
) -> None:
    if not LIBRARIES:
        missing("libfaketime is not installed (apt-get install faketime)")
    server = next(iter(request.config.stash[SERVERS].by_name))
    urls = [new_database(server) for _ in CLOCKS] if way == "alone" else [new_database(server)] * len(CLOCKS)
    for url in dict.fromkeys(urls):
        insert_lives(url)
    histories = []
    with ExitStack() as stack:
        fleets = [
            stack.enter_context(running_fleet(url, idle_seconds=IDLE_SECONDS, interval=60, env=shifted(clock)))
            for clock, url in zip(CLOCKS, urls, strict=True)
        ]
        for fleet, clock in zip(fleets, CLOCKS, strict=True):
            check_shift(fleet, clock)
        for url in dict.fromkeys(urls):
            database = stack.enter_context(closing(Database(url)))
            wait_until_finished(database, (SOON + SPREAD).total_seconds() + 10)
            histories.append(check_all(database, [], IDLE_SECONDS))
        for fleet in fleets:
            fleet.stop()
            fleet.check_log()
            assert fleet.complaints() == []
        half = CONVERSATIONS // 2
        assert [lives(history) for history in histories] == [[("paused",)] * half + [("expired",)] * half] * len(
            histories
        )
        latest = [max(lags(history)) for history in histories]
        assert max(latest) < LATEST_SECONDS
        names = list(CLOCKS) if way == "alone" else ["all"]
        outcome.add(
            database,
            conversations=CONVERSATIONS * len(histories),
            **{f"latest_seconds {name}": round(seconds, 2) for name, seconds in zip(names, latest, strict=True)},
        )
