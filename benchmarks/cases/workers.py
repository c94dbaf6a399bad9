"""The same backlog is drained by one worker and by four, each a process of its own with default settings.

All are ready before they are told to begin. The time is that from the first event to the last. One and four alternate,
each on a fresh copy; the ratio is the median over the rounds. Deadlocks are those that PostgreSQL counted.
"""

from __future__ import annotations

from benchmarks.bench import Bench, connect
from benchmarks.processes import ProcessError, run_at_once
from benchmarks.results import Figure, Goal, Outcome, median

TITLE = "Four workers"
_TOTALS = """
    SELECT count(*), extract(epoch FROM max(occurred_at) - min(occurred_at))::float8 FROM conversation_events
    WHERE type = 'expired'
"""
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def run(bench: Bench) -> Outcome:
    """Let one and four alternate."""
    backlog = bench.main_backlog()
    rates: dict[int, list[float]] = {1: [], 4: []}
    shares: list[list[int]] = []
    deadlocks = 0
    for number in bench.rounds(5):
        for workers, found_rates in rates.items():
            with bench.filled(backlog) as url:
                ended = [found["ended"] for found in run_at_once([["benchmarks.helpers.drain"]] * workers, url)]
                rate, new_deadlocks = _judge(url, ended)
            found_rates.append(rate)
            deadlocks += new_deadlocks
            if workers > 1:
                shares.append(ended)
        bench.say(f"round {number}: " + ", ".join(f"{workers}: {found[-1]:,.0f}/s" for workers, found in rates.items()))
    return Outcome(
        figures=[
            Figure(
                "four workers against one, same backlog",
                median(four / one for one, four in zip(*rates.values(), strict=True)),
                "times",
                Goal(1.3),
            ),
            Figure("deadlocks among them", deadlocks, "", Goal(0, at_most=True)),
        ],
        parameters={"due": backlog.due, "rows": backlog.rows},
        raw={"per_second": {str(workers): found for workers, found in rates.items()}, "ended_by_each_of_four": shares},
    )


def _judge(url: str, ended: list[int]) -> tuple[float, int]:
    with connect(url) as connection:
        count, seconds = connection.execute(_TOTALS).fetchone() or (0, 0)
        (deadlocks,) = connection.execute(_DEADLOCKS).fetchone() or (0,)
    if sum(ended) != count:
        raise ProcessError(f"the workers ended {sum(ended)} conversations, but {count} events are there")
    return count / seconds, deadlocks
