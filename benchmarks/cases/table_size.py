"""10,000 conversations come due in a small table and in a large one.

They are a tenth of the last 100,000 that began: once these are the whole table, once 9,900,000 closed ones lie before
them. One worker with default settings drains them, on a fresh copy each time; small and large alternate, and the ratio
of times is the median over the rounds. That the due ones lie together is how it is: what expires today began yesterday.
"""

from __future__ import annotations

from typing import Any

from benchmarks.backlogs import Backlog
from benchmarks.bench import Bench
from benchmarks.processes import run_at_once
from benchmarks.results import Figure, Goal, Outcome, median

TITLE = "Size of the table"
DUE, BETWEEN, LIVE, HISTORY = 10_000, 80_000, 10_000, 9_900_000


def run(bench: Bench) -> Outcome:
    """Let the two sizes alternate."""
    small = bench.backlog(due=DUE, between=BETWEEN, live=LIVE)
    large = bench.backlog(due=DUE, between=BETWEEN, live=LIVE, history=HISTORY)
    times: dict[Backlog, list[float]] = {small: [], large: []}
    try:
        for number in bench.rounds(5):
            for backlog, found in times.items():
                with bench.filled(backlog) as url:
                    (drained,) = run_at_once([["benchmarks.helpers.drain"]], url)
                    found.append(drained["seconds"])
            bench.say(
                f"round {number}: "
                + ", ".join(f"{size.rows:,} rows {found[-1]:.3f} s" for size, found in times.items())
            )
    finally:
        bench.server.forget(large)
    ratio = median(big / little for little, big in zip(times[small], times[large], strict=True))
    return Outcome(
        figures=[
            Figure(
                "a sweep of 10,000 due among 10,000,000 rows against among 100,000",
                ratio,
                "times",
                Goal(1.2, at_most=True),
            )
        ],
        parameters={"due": small.due, "rows": [small.rows, large.rows]},
        raw={"seconds": {str(backlog.rows): found for backlog, found in times.items()}},
    )


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw every round's time by the number of rows."""
    for rows, times in raw["seconds"].items():
        axes.plot([int(rows)] * len(times), times, "o")
    axes.set(xscale="log", xlabel="rows of the table", ylabel="seconds to end all that is due", ylim=(0, None))
