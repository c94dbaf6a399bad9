"""Connections are cut in the middle of COMMIT: whoever sent it cannot know whether it was done."""

from __future__ import annotations

import random
import time
from contextlib import closing
from datetime import timedelta

from lapse import Database
from tests.chaos.checks import check_all, wait_until_finished
from tests.chaos.cutting_proxy import PLACES, CuttingProxy
from tests.chaos.fleet import running_fleet
from tests.chaos.ledger import check_errors
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.chaos.writers import running_writers
from tests.support.backlog import insert_conversations

CUTS_OF_CALLERS = scaled(small=40, full=850)
CUTS_OF_WORKERS = scaled(small=10, full=150)
BACKLOG = scaled(small=300, full=10_000)
PATIENCE_SECONDS = scaled(small=60, full=300)
PAIRS = scaled(small=20, full=40)
WRITERS, WORKERS = scaled(small=(2, 2), full=(4, 4))
IDLE_SECONDS = 1


def test_cuts_in_commit_double_and_lose_nothing(chaos_url: str, chance: random.Random, outcome: Outcome) -> None:
    callers_proxy = CuttingProxy(chaos_url, chance, CUTS_OF_CALLERS, of_transactions=0.4, of_statements=0.1)
    workers_proxy = CuttingProxy(chaos_url, chance, CUTS_OF_WORKERS)
    with closing(Database(chaos_url)) as database, closing(callers_proxy), closing(workers_proxy):
        insert_conversations(database, range(BACKLOG), silent_for=timedelta(hours=1))
        callers_proxy.open()
        workers_proxy.open()
        with (
            running_writers(
                callers_proxy.url, WRITERS, chance, pairs=PAIRS, idle_seconds=IDLE_SECONDS, closings=0.2, extensions=0.2
            ) as writers,
            running_fleet(*[workers_proxy.url] * WORKERS, idle_seconds=IDLE_SECONDS, batch_size=5) as fleet,
        ):
            begin = time.monotonic()
            while not (callers_proxy.is_done and workers_proxy.is_done):
                assert time.monotonic() - begin < PATIENCE_SECONDS, (callers_proxy.cuts, workers_proxy.cuts)
                time.sleep(0.1)
            writers.stop()
            wait_until_finished(database, 30)
            fleet.stop()
            fleet.check_log()
            complaints = fleet.complaints()
        history = check_all(database, writers.calls, IDLE_SECONDS)
        # Each cut of a sweep is in the log, once.
        assert [line["event"] for line in complaints] == ["task failed"] * workers_proxy.cuts.total()
        cuts = callers_proxy.cuts + workers_proxy.cuts
        assert set(cuts) == set(PLACES)
        outcome.add(
            database,
            cuts=cuts.total(),
            **{f"cuts {place}": cuts[place] for place in PLACES},
            commits=(callers_proxy.commits + workers_proxy.commits).total(),
            calls=len(writers.calls),
            errors_to_callers=check_errors(writers.calls),
            events=sum(map(len, history.events.values())),
        )
