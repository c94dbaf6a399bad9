"""Messages on live conversations, in quiet and while a worker ends 1,000,000 due ones.

One process sends 200 messages a second on 10,000 conversations, whatever becomes of them; the latency of each is
counted from the moment at which it was to be sent. First in quiet, then from the first to the last transition of a
drain by `lapse worker` with default settings; and, to compare, on another copy while one bare `UPDATE` and `INSERT` end
all of them in one transaction. Before each phase, what the file system still holds back of earlier writes is written
out. The ratio of the 99th percentiles is the median over the rounds. Fifty times a second a look at
`pg_stat_activity` notes what a message's session is waiting for, if it is at work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.backlogs import Backlog, live_customers
from benchmarks.bench import Bench
from benchmarks.drains import Window, wait_until_ended, window_of
from benchmarks.peers import bare_pair
from benchmarks.processes import running, running_worker
from benchmarks.results import Figure, Goal, Outcome, median, quantile, quantiles
from benchmarks.waits import WaitSampler

TITLE = "Messages during a drain"
RATE = 200
QUIET_SECONDS = 20
QUIET, DRAIN, BARE = "in quiet", "during the drain", "during a bare UPDATE and INSERT over all of them"


@dataclass(frozen=True, slots=True)
class Phase:
    """The latencies of messages in ms, in how many seconds, and what their sessions waited for."""

    latencies: list[float]
    seconds: float
    waits: WaitSampler

    @property
    def p99(self) -> float:
        """Return the 99th percentile."""
        return quantile(sorted(self.latencies), 0.99)


Phases = dict[str, list[Phase]]


def run(bench: Bench) -> Outcome:
    """Let quiet, drain and bare pair alternate."""
    backlog = bench.backlog(due=1_000_000, live=10_000)
    seconds = bench.seconds(QUIET_SECONDS, least=1)
    phases: Phases = {QUIET: [], DRAIN: [], BARE: []}
    for number in bench.rounds(3):
        with bench.filled(backlog) as url:
            phases[QUIET].append(messages_while(url, backlog, lambda _: quiet(seconds)))
            phases[DRAIN].append(messages_while(url, backlog, lambda url: drain(url, backlog.due)))
        with bench.filled(backlog) as url:
            phases[BARE].append(messages_while(url, backlog, bare))
        shown = ", ".join(f"{name} {found[-1].p99:.2f} ms" for name, found in phases.items())
        bench.say(f"round {number}: 99th percentile {shown}; the drain took {phases[DRAIN][-1].seconds:.0f} s")
    return Outcome(
        figures=figures(phases, backlog.due),
        parameters={"due": backlog.due, "rows": backlog.rows, "messages_per_second": RATE},
        raw={
            "latency_ms_by_per_mille": of_each(phases, lambda phase: quantiles(phase.latencies)),
            "messages": of_each(phases, lambda phase: len(phase.latencies)),
            "seconds": of_each(phases, lambda phase: phase.seconds),
            "waits": of_each(phases, lambda phase: dict(phase.waits.counts.most_common())),
        },
    )


def figures(phases: Phases, due: int) -> list[Figure]:
    """Return the ratio, and for each phase how long messages took and for how much of it they waited for the log."""
    ratio = median(during.p99 / before.p99 for before, during in zip(phases[QUIET], phases[DRAIN], strict=True))
    p99 = of_each(phases, lambda phase: phase.p99)
    middle = of_each(phases, lambda phase: median(phase.latencies))
    longest = of_each(phases, lambda phase: max(phase.latencies))
    log = of_each(phases, lambda phase: 100 * phase.waits.share_of_the_log)
    name = "99th percentile of the message path during a drain of 1,000,000, against quiet"
    return [
        Figure(name, ratio, "times", Goal(2, at_most=True)),
        *(Figure(f"99th percentile {name}", median(found), "ms") for name, found in p99.items()),
        *(Figure(f"median {name}", median(found), "ms") for name, found in middle.items()),
        *(Figure(f"longest {name}", median(found), "ms") for name, found in longest.items()),
        *(Figure(f"waiting for the log {name}", median(found), "%") for name, found in log.items()),
        Figure("the drain, conversations", median(due / phase.seconds for phase in phases[DRAIN]), "1/s"),
    ]


def of_each(phases: Phases, value: Callable[[Phase], Any]) -> dict[str, list[Any]]:
    """Return this of every phase."""
    return {name: [value(phase) for phase in found] for name, found in phases.items()}


def messages_while(url: str, backlog: Backlog, work: Callable[[str], Window]) -> Phase:
    """Send messages while `work` goes on, and return what became of those in its window."""
    customers = live_customers(backlog)
    command = ["benchmarks.helpers.load", f"--rate={RATE}", "--customers", str(customers.start), str(customers.stop)]
    with running(*command, url=url) as process:
        process.hear()
        os.sync()
        process.tell("go")
        with WaitSampler(url, "UPDATE conversations SET updated_at") as waits:
            begin, end = work(url)
        process.tell("stop")
        found = process.hear()
    sent = zip(found["moments"], found["latencies"], strict=True)
    return Phase([latency for moment, latency in sent if begin <= moment <= end], end - begin, waits)


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
    return window_of(url)


def bare(url: str) -> Window:
    """Let the two statements end everything."""
    begin = time.time()
    bare_pair.end_all(url)
    return begin, time.time()


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw how many of a thousand messages took longer, by time, of the last round."""
    for name, rounds in raw["latency_ms_by_per_mille"].items():
        times = rounds[-1]
        axes.plot(times, [1 - place / (len(times) - 1) for place in range(len(times))], label=name)
    axes.set(xscale="log", yscale="log", xlabel="ms", ylabel="share of messages that took longer", ylim=(0.001, 1))
    axes.legend(fontsize="small")
