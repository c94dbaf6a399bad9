"""A backlog is drained in batches of 500, with and without another session's `REPEATABLE READ` transaction.

The open transaction keeps PostgreSQL from removing any version that dies meanwhile. Each batch is timed. Compared are
the mean of the last tenth of the batches and that of the first tenth. Drains with and without alternate, each on a
fresh copy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from statistics import mean
from typing import Any

from benchmarks.bench import Bench, connect
from benchmarks.results import Figure, Goal, Outcome, median
from lapse import ConversationService
from tests.support.sweeps import sweep_expired

TITLE = "A pinned snapshot"
BATCH = 500


def run(bench: Bench) -> Outcome:
    """Let drains with and without a pinned snapshot alternate."""
    backlog = bench.main_backlog()
    batch = bench.rows(BATCH, least=20)
    times: dict[str, list[list[float]]] = {"free": [], "pinned": []}
    for number in bench.rounds(3):
        for name, found in times.items():
            with bench.filled(backlog) as url, pinned_snapshot(url) if name == "pinned" else nullcontext():
                found.append(drain(url, batch))
        bench.say(
            f"round {number}: " + ", ".join(f"{name} {growth(found[-1]):.2f} times" for name, found in times.items())
        )
    return Outcome(
        figures=[
            Figure(
                "a batch at the end against one at the beginning, snapshot pinned",
                median(map(growth, times["pinned"])),
                "times",
                Goal(2, at_most=True),
            ),
            Figure("the same, nothing pinned", median(map(growth, times["free"])), "times"),
        ],
        parameters={"due": backlog.due, "rows": backlog.rows, "batch_size": batch},
        raw={"batch_ms": times},
    )


def drain(url: str, batch: int) -> list[float]:
    """End all that is due as the worker does, and return each batch's time in ms."""
    times: list[float] = []
    with closing(ConversationService(url)) as service:
        service.next_deadlines()
        following = dict[str, Any]()
        while True:
            begin = time.perf_counter()
            result = sweep_expired(service.database, batch, **following)
            times.append(round(1000 * (time.perf_counter() - begin), 3))
            if result.claimed < batch:
                return times[:-1] or times
            following = {"after": result.last_deadline}


def growth(times: list[float]) -> float:
    """Return how much longer the last batches took than the first."""
    tenth = max(len(times) // 10, 1)
    return mean(times[-tenth:]) / mean(times[:tenth])


@contextmanager
def pinned_snapshot(url: str) -> Iterator[None]:
    """Leave a transaction open that has looked at the table."""
    with connect(url) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM conversations")
        yield
        connection.execute("ROLLBACK")


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw each batch's time over the drain, of the last round, smoothed by a running median."""
    for name, rounds in raw["batch_ms"].items():
        times = rounds[-1]
        width = max(len(times) // 50, 1)
        axes.plot([median(times[place : place + width]) for place in range(len(times) - width + 1)], label=name)
    axes.set(xlabel="batch", ylabel="ms", ylim=(0, None))
    axes.legend()
