"""`lapse adopt` is killed again and again while the legacy application goes on writing, and notices nothing of it."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import psycopg

from lapse import Database
from tests.adoption.killed_adoption import STEPS, kill_adoption
from tests.adoption.legacy_table import KEYED, connect, create_legacy_table, fill
from tests.adoption.legacy_writer import ENDING, Ledger, Row, read_all, running_application
from tests.adoption.snapshots import SHOWN, check_events, expected_duplicates
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.support.commands import run_lapse

ROWS = scaled(small=20_000, full=200_000)
KILLS = scaled(small=10, full=50)
WRITERS = 4
PATIENCE_SECONDS = 1
"""The legacy application's: no statement of it takes longer."""
AIMS = STEPS[:-1]


def test_an_adoption_that_is_killed_loses_nothing_of_the_application(
    empty_chaos_url: str, chance: random.Random, outcome: Outcome
) -> None:
    url = empty_chaos_url
    with connect(url) as connection:
        create_legacy_table(connection, KEYED)
        fill(connection, ROWS, KEYED)
        with running_application(url, WRITERS, chance) as ledgers:
            killed = kill_adoptions(url, connection, chance)
            begin = time.monotonic()
            finished = run_lapse("adopt", "--database-url", url, timeout=300)
            seconds = time.monotonic() - begin
            assert finished.returncode == 0, finished.stderr
            time.sleep(1)
        slowest = max(ledger.slowest_seconds for ledger in ledgers)
        sys.stdout.write(f"killed at {dict(killed)}; the slowest statement took {slowest:.3f} seconds\n")
        duplicates = check_rows(connection, ledgers)
        assert slowest < PATIENCE_SECONDS
        assert expected_duplicates(connection) == set()
    check_doctor_is_content(url)
    assert len(killed.keys() - {"done"}) >= 4, killed
    with closing(Database(url)) as database:
        outcome.add(
            database,
            conversations=ROWS,
            kills=killed.total(),
            steps=len(killed),
            statements=sum(ledger.statements for ledger in ledgers),
            slowest_milliseconds=round(1_000 * slowest),
            duplicates=duplicates,
            last_run_seconds=round(seconds, 1),
        )


def kill_adoptions(url: str, connection: psycopg.Connection[Any], chance: random.Random) -> Counter[str]:
    """Kill as many runs, at each step at least once; return how many were killed at which."""
    aims = sorted([*AIMS, *chance.choices(AIMS, k=KILLS - len(AIMS))], key=STEPS.index)
    killed: Counter[str] = Counter()
    for _ in range(2 * KILLS):
        if step := kill_adoption(url, connection, aims[killed.total()], chance):
            killed[step] += 1
        if killed.total() == KILLS:
            return killed
    raise AssertionError(f"adopt was faster than most of the kills: {killed}")


def check_rows(connection: psycopg.Connection[Any], ledgers: Sequence[Ledger]) -> int:
    """Fail unless every row is as its writer left it, but for ended duplicates; return how many those are."""
    problems = [problem for ledger in ledgers for problem in ledger.problems]
    assert not problems, f"{len(problems)} problems, such as\n" + "\n".join(problems[:SHOWN])
    known: dict[int, Row] = {}
    for ledger in ledgers:
        assert not known.keys() & ledger.rows.keys()
        known.update(ledger.rows)
    found = read_all(connection)
    assert found.keys() == known.keys(), f"{len(found.keys() ^ known.keys())} rows were lost or added"
    events = check_events(connection)
    assert {(event.reason, event.type) for event in events} == {("duplicate_session", "expired")}
    duplicates = {int(event.conv_id) for event in events}
    wrong = []
    for conv_id, row in found.items():
        changed = {name for name, value in row.items() if value != known[conv_id][name]}
        is_ended = row["status"] == "expired" and row["ended_at"] is not None and conv_id in duplicates
        if changed and not (changed <= ENDING and is_ended):
            wrong.append((sorted(changed), known[conv_id], row))
    assert not wrong, f"{len(wrong)} rows were changed, such as {wrong[:SHOWN]}"
    seen = set().union(*(ledger.ended_by_others for ledger in ledgers))
    assert seen <= duplicates, f"ended without an event: {sorted(seen - duplicates)[:SHOWN]}"
    return len(duplicates)


def check_doctor_is_content(url: str) -> None:
    """Fail where the doctor finds an error."""
    said = run_lapse("doctor", "--json", "--database-url", url)
    errors = [found for found in json.loads(said.stdout)["findings"] if found["level"] == "error"]
    assert (said.returncode, errors) == (0, [])
