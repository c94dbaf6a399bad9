"""Messages on live conversations, in quiet and while a worker ends 1,000,000 due ones.

One process sends 200 messages a second on 10,000 conversations, whatever becomes of them; the latency of each is
counted from the moment at which it was to be sent. First in quiet, then from the first to the last transition of a
drain by `lapse worker` with default settings; and, to compare, on another copy while one bare `UPDATE` and `INSERT` end
all of them in one transaction. The ratio of the 99th percentiles is the median over the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.backlogs import Backlog, live_customers
from benchmarks.bench import Bench, connect
from benchmarks.peers import bare_pair
from benchmarks.processes import Process, running, running_worker
from benchmarks.results import Figure, Goal, Outcome, median, quantile, quantiles

TITLE = "Messages during a drain"
RATE = 200
QUIET_SECONDS = 20
QUIET, DRAIN, BARE = "in quiet", "during the drain", "during a bare UPDATE and INSERT over all of them"
_WINDOW = """
    SELECT extract(epoch FROM min(occurred_at))::float8, extract(epoch FROM max(occurred_at))::float8
    FROM conversation_events WHERE type = 'expired'
"""
Window = tuple[float, float]
"""From when until when, in seconds since 1970."""


def run(bench: Bench) -> Outcome:
    """Let quiet, drain and bare pair alternate."""
    backlog = bench.backlog(due=1_000_000, live=10_000)
    seconds = bench.seconds(QUIET_SECONDS, least=1)
    latencies: dict[str, list[list[float]]] = {QUIET: [], DRAIN: [], BARE: []}
    drains: list[float] = []
    for number in bench.rounds(3):
        with bench.filled(backlog) as url:
            latencies[QUIET].append(latencies_while(url, backlog, lambda _: quiet(seconds))[0])
            during, drain_seconds = latencies_while(url, backlog, lambda url: drain(url, backlog.due))
        with bench.filled(backlog) as url:
            latencies[BARE].append(latencies_while(url, backlog, bare)[0])
        latencies[DRAIN].append(during)
        drains.append(drain_seconds)
        shown = ", ".join(f"{name} {p99(found[-1]):.2f} ms" for name, found in latencies.items())
        bench.say(f"round {number}: 99th percentile {shown}; the drain took {drain_seconds:.0f} s")
    ratio = median(p99(during) / p99(before) for before, during in zip(latencies[QUIET], latencies[DRAIN], strict=True))
    name = "99th percentile of the message path during a drain of 1,000,000, against quiet"
    return Outcome(
        figures=[
            Figure(name, ratio, "times", Goal(2, at_most=True)),
            *(Figure(f"99th percentile {name}", median(map(p99, found)), "ms") for name, found in latencies.items()),
            *(Figure(f"median {name}", median(map(median, found)), "ms") for name, found in latencies.items()),
            Figure("the drain, conversations", median(backlog.due / seconds for seconds in drains), "1/s"),
        ],
        parameters={"due": backlog.due, "rows": backlog.rows, "messages_per_second": RATE},
        raw={
            "latency_ms_by_per_mille": {name: [quantiles(one) for one in found] for name, found in latencies.items()},
            "messages": {name: [len(one) for one in found] for name, found in latencies.items()},
            "drain_seconds": drains,
        },
    )


def latencies_while(url: str, backlog: Backlog, work: Callable[[str], Window]) -> tuple[list[float], float]:
    """Send messages while `work` goes on; return the latencies in its window, and how many seconds that was."""
    with load(url, backlog) as process:
        process.hear()
        process.tell("go")
        begin, end = work(url)
        process.tell("stop")
        found = process.hear()
    sent = zip(found["moments"], found["latencies"], strict=True)
    return [latency for moment, latency in sent if begin <= moment <= end], end - begin


def quiet(seconds: float) -> Window:
    """Do nothing for so long."""
    begin = time.time()
    time.sleep(seconds)
    return begin, time.time()


def drain(url: str, due: int) -> Window:
    """Let a worker end everything; the window is that of the transitions."""
    with running_worker(url=url) as worker:
        wait_until_ended(worker, due)
        worker.stop()
    with connect(url) as connection:
        begin, end = connection.execute(_WINDOW).fetchone() or (0.0, 0.0)
    return begin, end


def bare(url: str) -> Window:
    """Let the two statements end everything."""
    begin = time.time()
    bare_pair.end_all(url)
    return begin, time.time()


def load(url: str, backlog: Backlog) -> Any:
    """Start the process that sends messages."""
    customers = live_customers(backlog)
    return running(
        "benchmarks.helpers.load",
        f"--rate={RATE}",
        "--customers",
        str(customers.start),
        str(customers.stop),
        url=url,
    )


def wait_until_ended(worker: Process, number: int) -> None:
    """Read the worker's log until so many conversations have ended."""
    ended = 0
    while ended < number:
        ended += worker.hear_event("task processed")["count"]


def p99(latencies: list[float]) -> float:
    """Return the 99th percentile."""
    return quantile(sorted(latencies), 0.99)


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw how many of a thousand messages took longer, by time, of the last round."""
    for name, rounds in raw["latency_ms_by_per_mille"].items():
        times = rounds[-1]
        axes.plot(times, [1 - place / (len(times) - 1) for place in range(len(times))], label=name)
    axes.set(xscale="log", yscale="log", xlabel="ms", ylabel="share of messages that took longer", ylim=(0.001, 1))
    axes.legend()
