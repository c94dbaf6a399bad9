"""`next_deadlines` on SQLite, which a worker asks before each wait, with 200 and with 20,000 open conversations.

The median of the calls, which find nothing due.
"""

from __future__ import annotations

import time
from contextlib import closing

from benchmarks.bench import Bench
from benchmarks.messages import record
from benchmarks.results import Figure, Goal, Outcome, median
from lapse import ConversationService
from lapse.store import migrate

TITLE = "The next deadline on SQLite"
CALLS = 2_000


def run(bench: Bench) -> Outcome:
    """Ask with few open conversations, then with many."""
    sizes = (200, bench.rows(20_000, least=400))
    taken = {size: median(seconds_of_calls(bench, size)) for size in sizes}
    few, many = sizes
    return Outcome(
        figures=[
            Figure("next_deadlines with 20,000 open", 1000 * taken[many], "ms", Goal(0.3, at_most=True)),
            Figure("next_deadlines with 200 open", 1000 * taken[few], "ms"),
        ],
        parameters={"open": list(sizes), "calls": CALLS},
        raw={"median_seconds": taken},
    )


def seconds_of_calls(bench: Bench, size: int) -> list[float]:
    """Return how long each call takes with so many open conversations."""
    with closing(ConversationService(f"sqlite:///{bench.folder / f'deadlines-{size}.db'}")) as service:
        migrate(service.database)
        for number in range(1, size + 1):
            record(service, number)
        taken = []
        for _ in range(CALLS):
            begin = time.perf_counter()
            service.next_deadlines()
            taken.append(time.perf_counter() - begin)
    return taken
