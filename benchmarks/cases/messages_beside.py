"""Lone callers in processes of their own, in quiet and beside a process that sends lists of 500 all the time.

Four processes send 25 messages a second each, with a pause after each message, on 500 conversations of their own. A
latency counts from the moment at which the message was due to be sent. Beside them, in turns: nothing; a process that
sends one list after the other on 8,000 other conversations; and the same on all 10,000, those of the four among them.
There a message may find its conversation locked by a list, and waits for that statement and its commit. To compare, a
process that only computes, and has nothing to do with the database. The 99th percentile is that of all four in a turn,
and a ratio is the median over rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic, sleep, time
from typing import Any

from benchmarks.backlogs import CHANNEL, OWNERS, live_customers
from benchmarks.bench import Bench
from benchmarks.processes import Process, running
from benchmarks.results import Figure, Goal, Outcome, median, quantile
from benchmarks.turns import GROUPS

TITLE = "Beside a process that sends lists"
CALLERS, RATE, SHARE = 4, 25, 0.05
SECONDS, ROUNDS = 15.0, 5
MOST = 2
QUIET, OTHERS, SAME = "quiet", "lists on other conversations", "lists on all conversations"
COMPUTING = "a process that only computes"
Window = tuple[float, float]


def run(bench: Bench) -> Outcome:
    """Let quiet and lists take turns."""
    backlog = bench.backlog(between=90_000, live=10_000)
    customers, seconds = live_customers(backlog), bench.seconds(SECONDS, least=1)
    own = round(SHARE * len(customers))
    windows: dict[str, list[Window]] = {QUIET: [], OTHERS: [], SAME: [], COMPUTING: []}
    sent: dict[str, list[int]] = {OTHERS: [], SAME: []}
    with bench.filled(backlog) as url, ExitStack() as stack:
        ranges = [customers[place * own : (place + 1) * own] for place in range(CALLERS)]
        callers = [stack.enter_context(running(*load(some), url=url)) for some in ranges]
        of_groups = {OTHERS: customers[CALLERS * own :], SAME: customers}
        groups = {name: stack.enter_context(running(*lists(some), url=url)) for name, some in of_groups.items()}
        for process in (*callers, *groups.values()):
            process.hear()
        for process in callers:
            process.tell("go")
        sleep(1)
        works: dict[str, Callable[[], Any]] = {QUIET: lambda: sleep(seconds), COMPUTING: lambda: compute(seconds)}
        works |= {name: lambda name=name: sent[name].append(send(groups[name], seconds)) for name in groups}  # type: ignore[misc]
        for number in bench.rounds(ROUNDS):
            for name in sorted(works, reverse=number % 2 == 0):
                begin = time()
                works[name]()
                windows[name].append((begin, time()))
        for process in callers:
            process.tell("stop")
        heard = [process.hear() for process in callers]
    latencies = {name: [within(heard, window) for window in of] for name, of in windows.items()}
    for name, of in latencies.items():
        bench.say(f"{name}: 99 % within {median(quantile(one, 0.99) for one in of):.2f} ms")
    return Outcome(
        figures=figures(latencies, sent, seconds),
        parameters={"callers": CALLERS, "messages_a_second_each": RATE, "seconds": seconds},
        raw={"p99_ms": {name: [quantile(one, 0.99) for one in of] for name, of in latencies.items()}, "sent": sent},
    )


def load(customers: range) -> tuple[str, ...]:
    """Return the command of a lone caller."""
    return "benchmarks.helpers.load", f"--rate={RATE}", "--customers", str(customers.start), str(customers.stop)


def lists(customers: range) -> tuple[str, ...]:
    """Return the command of a process that sends lists."""
    of_whom = ("--customers", str(customers.start), str(customers.stop))
    return GROUPS, *of_whom, f"--owners={OWNERS}", f"--channel={CHANNEL}"


def send(process: Process, seconds: float) -> int:
    """Let lists be sent for so long, and return the number of messages."""
    process.tell(f"lists {seconds}")
    return int(process.hear()["sent"])


def compute(seconds: float) -> None:
    """Keep a processor busy for so long."""
    over = monotonic() + seconds
    while monotonic() < over:
        pass


def within(heard: list[dict[str, Any]], window: Window) -> list[float]:
    """Return the latencies of all callers in a window, in order."""
    begin, end = window
    return sorted(
        latency
        for of in heard
        for moment, latency in zip(of["moments"], of["latencies"], strict=True)
        if begin <= moment < end
    )


def figures(latencies: dict[str, list[list[float]]], sent: dict[str, list[int]], seconds: float) -> list[Figure]:
    """Return ratios, then milliseconds."""

    def ratio(name: str) -> float:
        pairs = zip(latencies[name], latencies[QUIET], strict=True)
        return median(quantile(busy, 0.99) / quantile(quiet, 0.99) for busy, quiet in pairs)

    most = Goal(MOST, at_most=True)
    return [
        Figure("99th percentile of a lone caller beside lists, against quiet", ratio(OTHERS), "times", most),
        Figure("the same where the lists are of the same conversations", ratio(SAME), "times"),
        Figure("the same beside a process that only computes", ratio(COMPUTING), "times"),
        *(
            Figure(f"{what}, {name}", median(quantile(one, share) for one in of), "ms")
            for name, of in latencies.items()
            for what, share in (("median", 0.5), ("99th percentile", 0.99), ("longest", 1.0))
        ),
        *(Figure(f"messages of {name}", median(of) / seconds, "1/s") for name, of in sent.items()),
    ]
