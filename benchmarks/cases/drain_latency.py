"""Messages on live conversations, in quiet and while a worker ends 1,000,000 due ones.

One process sends 200 messages a second on 10,000 conversations, whatever becomes of them; the latency of each is
counted from the moment at which it was to be sent. First in quiet, then from the first to the last transition of a
drain by `lapse worker` with default settings. The ratio of the 99th percentiles is the median over the rounds, each on
a fresh copy.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.backlogs import Backlog, live_customers
from benchmarks.bench import Bench, connect
from benchmarks.processes import Process, running, running_worker
from benchmarks.results import Figure, Goal, Outcome, median, quantile, quantiles

TITLE = "Messages during a drain"
RATE = 200
QUIET_SECONDS = 20
_WINDOW = """
    SELECT extract(epoch FROM min(occurred_at))::float8, extract(epoch FROM max(occurred_at))::float8
    FROM conversation_events WHERE type = 'expired'
"""


def run(bench: Bench) -> Outcome:
    """Let quiet and drain alternate."""
    backlog = bench.backlog(due=1_000_000, live=10_000)
    latencies: dict[str, list[list[float]]] = {"quiet": [], "drain": []}
    drains: list[float] = []
    for number in bench.rounds(3):
        with bench.filled(backlog) as url:
            latencies["quiet"].append(in_quiet(url, backlog, bench.seconds(QUIET_SECONDS, least=1)))
            during, seconds = in_a_drain(url, backlog)
        latencies["drain"].append(during)
        drains.append(seconds)
        bench.say(
            f"round {number}: "
            + ", ".join(f"{name} p99 {p99(found[-1]):.2f} ms" for name, found in latencies.items())
            + f", drain of {seconds:.0f} s"
        )
    quiet, drain = latencies.values()
    return Outcome(
        figures=[
            Figure(
                "99th percentile of the message path during a drain of 1,000,000 against quiet",
                median(p99(during) / p99(before) for before, during in zip(quiet, drain, strict=True)),
                "times",
                Goal(2, at_most=True),
            ),
            *(Figure(f"99th percentile, {name}", median(map(p99, found)), "ms") for name, found in latencies.items()),
            *(Figure(f"median, {name}", median(map(median, found)), "ms") for name, found in latencies.items()),
            Figure("the drain, conversations", median(backlog.due / seconds for seconds in drains), "1/s"),
        ],
        parameters={"due": backlog.due, "rows": backlog.rows, "messages_per_second": RATE},
        raw={
            "latency_ms_by_per_mille": {name: [quantiles(one) for one in found] for name, found in latencies.items()},
            "messages": {name: [len(one) for one in found] for name, found in latencies.items()},
            "drain_seconds": drains,
        },
    )


def in_quiet(url: str, backlog: Backlog, seconds: float) -> list[float]:
    """Return the latencies of messages while nothing else happens."""
    with load(url, backlog) as process:
        process.hear()
        process.tell("go")
        time.sleep(seconds)
        process.tell("stop")
        found: list[float] = process.hear()["latencies"]
        return found


def in_a_drain(url: str, backlog: Backlog) -> tuple[list[float], float]:
    """Return the latencies of the messages between the first and the last transition, and the seconds between these."""
    with load(url, backlog) as process:
        process.hear()
        with running_worker(url=url) as worker:
            process.tell("go")
            wait_until_ended(worker, backlog.due)
            process.tell("stop")
            found = process.hear()
            worker.stop()
    with connect(url) as connection:
        begin, end = connection.execute(_WINDOW).fetchone() or (0.0, 0.0)
    during = [
        latency for moment, latency in zip(found["moments"], found["latencies"], strict=True) if begin <= moment <= end
    ]
    return during, end - begin


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
