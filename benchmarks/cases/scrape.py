"""Latency of `GET /metrics`, in quiet and while the worker ends 1,000,000 due conversations.

Two askers, 20 times a second each: one on a connection that is kept, one on a new connection for each question, which
is in the time. A latency is counted from the moment at which it was to be sent, to the last byte of the answer. First
during the drain, from the first to the last transition, by a worker with default settings; then of the same worker when
nothing is due. Server, worker and askers share the machine. Percentiles are over the answers of all rounds.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

from benchmarks.background import Background
from benchmarks.backlogs import Backlog
from benchmarks.bench import Bench
from benchmarks.drains import Window, wait_until_ended, window_of
from benchmarks.results import Figure, Goal, Outcome, quantile, quantiles
from benchmarks.watching import ask, connection_to, highest_resident_mib, watched_worker

TITLE = "Scraping during a drain"
PER_SECOND = 20
QUIET_SECONDS = 20
KEPT, NEW = "on a kept connection", "on a new connection"
DRAIN, QUIET = "during a drain of 1,000,000", "in quiet"
Latencies = dict[str, list[float]]


class Asker:
    """Asks for `/metrics` at a steady rate."""

    def __init__(self, port: int, *, keeps_connection: bool) -> None:
        """Ask the worker of this port."""
        self._port, self._keeps_connection = port, keeps_connection
        self._sent: list[tuple[float, float]] = []

    def ask_until(self, over: threading.Event) -> None:
        """Ask, and keep each intended moment with the latency from it."""
        with closing(connection_to(self._port)) as kept:
            begin, epoch = time.perf_counter(), time.time()
            while not over.wait(max(begin + len(self._sent) / PER_SECOND - time.perf_counter(), 0)):
                intended = len(self._sent) / PER_SECOND
                ask(self._port, "/metrics", kept if self._keeps_connection else None)
                self._sent.append((epoch + intended, round(1000 * (time.perf_counter() - begin - intended), 3)))

    def latencies_ms(self, window: Window) -> list[float]:
        """Return the latencies of the questions of this time."""
        return [latency for moment, latency in self._sent if window[0] <= moment <= window[1]]


def run(bench: Bench) -> Outcome:
    """Ask during a drain and after it, on a fresh copy each time."""
    backlog = bench.backlog(due=1_000_000, live=10_000)
    seconds = bench.seconds(QUIET_SECONDS, least=1)
    found: dict[str, Latencies] = {DRAIN: {NEW: [], KEPT: []}, QUIET: {NEW: [], KEPT: []}}
    rates, highest = [], 0.0
    for number in bench.rounds(3):
        with bench.filled(backlog) as url:
            rate, mib = ask_through(url, backlog, seconds, found)
        rates.append(rate)
        highest = max(highest, mib)
        bench.say(f"round {number}: the drain made {rate:,.0f} a second; " + ", ".join(described(found)))
    return Outcome(
        figures=[*figures(found), Figure("highest resident memory of the worker (VmHWM)", highest, "MiB")],
        parameters={"due": backlog.due, "rows": backlog.rows, "questions_per_second": 2 * PER_SECOND},
        raw={
            "latency_ms_by_per_mille": of_each(found, quantiles),
            "answers": of_each(found, len),
            "drained_per_second": rates,
        },
    )


def ask_through(url: str, backlog: Backlog, seconds: float, found: dict[str, Latencies]) -> tuple[float, float]:
    """Ask a worker through its drain and for so many seconds after it; return its rate and its memory."""
    with watched_worker(url=url) as (worker, port):
        new, kept = Asker(port, keeps_connection=False), Asker(port, keeps_connection=True)
        with Background(new.ask_until, kept.ask_until):
            wait_until_ended(worker, backlog.due)
            drained_at = time.time()
            time.sleep(seconds + 1)
        mib = highest_resident_mib(worker.pid)
        worker.stop()
    drain = window_of(url)
    for name, window in ((DRAIN, drain), (QUIET, (drained_at + 1, drained_at + 1 + seconds))):
        found[name][NEW] += new.latencies_ms(window)
        found[name][KEPT] += kept.latencies_ms(window)
    return backlog.due / max(drain[1] - drain[0], 0.001), mib


def figures(found: dict[str, Latencies]) -> list[Figure]:
    """Return percentiles of each kind; the goal is that of the drain."""
    return [
        Figure(f"{text} of /metrics {name}, {kind}", value, "ms", goal)
        for name, kinds in found.items()
        for kind, times in kinds.items()
        for text, value, goal in (
            ("99th percentile", percentile(times, 0.99), Goal(20, at_most=True) if name == DRAIN else None),
            ("median", percentile(times, 0.5), None),
            ("longest", percentile(times, 1), None),
        )
    ]


def percentile(times: list[float], share: float) -> float:
    """Return the value below which this share lies; 0 where a quick run was too quick for any answer."""
    return quantile(sorted(times), share) if times else 0.0


def described(found: dict[str, Latencies]) -> list[str]:
    """Say how far it is."""
    return [
        f"{name} {kind} {percentile(times, 0.99):.1f} ms"
        for name, kinds in found.items()
        for kind, times in kinds.items()
    ]


def of_each(found: dict[str, Latencies], value: Any) -> dict[str, dict[str, Any]]:
    """Return this of every kind."""
    return {
        name: {kind: value(times) if times else None for kind, times in kinds.items()} for name, kinds in found.items()
    }


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw how many of a thousand answers took longer, by time."""
    for name, kinds in raw["latency_ms_by_per_mille"].items():
        for kind, times in kinds.items():
            axes.plot(times, [1 - place / (len(times) - 1) for place in range(len(times))], label=f"{name}, {kind}")
    axes.axvline(20, linestyle=":", color="tab:red", label="goal")
    axes.set(xscale="log", yscale="log", xlabel="ms", ylabel="share of answers that took longer", ylim=(0.001, 1))
    axes.legend(fontsize="small")
