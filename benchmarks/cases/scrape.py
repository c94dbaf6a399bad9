"""Latency of `GET /metrics`, in quiet and while the worker ends 1,000,000 due conversations.

Forty times a second, on a new connection for each question, since the server closes it after an answer; to connect is
in the time. A latency is counted from the moment at which the question was to be sent, to the last byte of the answer.
First during the drain, from the first to the last transition, by a worker with default settings; then of the same
worker when nothing is due. Server, worker and asker share the machine. Percentiles are over the answers of all rounds.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks.background import Background
from benchmarks.backlogs import Backlog
from benchmarks.bench import Bench
from benchmarks.drains import Window, wait_until_ended, window_of
from benchmarks.results import Figure, Goal, Outcome, quantile, quantiles
from benchmarks.watching import ask, highest_resident_mib, watched_worker

TITLE = "Scraping during a drain"
PER_SECOND = 40
QUIET_SECONDS = 20
DRAIN, QUIET = "during a drain of 1,000,000", "in quiet"
Latencies = dict[str, list[float]]


class Asker:
    """Asks for `/metrics` at a steady rate."""

    def __init__(self, port: int) -> None:
        """Ask the worker of this port."""
        self._port = port
        self._sent: list[tuple[float, float]] = []

    def ask_until(self, over: threading.Event) -> None:
        """Ask, and keep each intended moment with the latency from it."""
        begin, epoch = time.perf_counter(), time.time()
        while not over.wait(max(begin + len(self._sent) / PER_SECOND - time.perf_counter(), 0)):
            intended = len(self._sent) / PER_SECOND
            ask(self._port, "/metrics")
            self._sent.append((epoch + intended, round(1000 * (time.perf_counter() - begin - intended), 3)))

    def latencies_ms(self, window: Window) -> list[float]:
        """Return the latencies of the questions of this time."""
        return [latency for moment, latency in self._sent if window[0] <= moment <= window[1]]


def run(bench: Bench) -> Outcome:
    """Ask during a drain and after it, on a fresh copy each time."""
    backlog = bench.backlog(due=1_000_000, live=10_000)
    seconds = bench.seconds(QUIET_SECONDS, least=1)
    found: Latencies = {DRAIN: [], QUIET: []}
    rates, highest = [], 0.0
    for number in bench.rounds(3):
        with bench.filled(backlog) as url:
            rate, mib = ask_through(url, backlog, seconds, found)
        rates.append(rate)
        highest = max(highest, mib)
        so_far = ", ".join(f"{name} {percentile(times, 0.99):.1f} ms" for name, times in found.items())
        bench.say(f"round {number}: the drain made {rate:,.0f} a second; {so_far}")
    return Outcome(
        figures=[*figures(found), Figure("highest resident memory of the worker (VmHWM)", highest, "MiB")],
        parameters={"due": backlog.due, "rows": backlog.rows, "questions_per_second": PER_SECOND},
        raw={
            "latency_ms_by_per_mille": {name: quantiles(times) if times else None for name, times in found.items()},
            "answers": {name: len(times) for name, times in found.items()},
            "drained_per_second": rates,
        },
    )


def ask_through(url: str, backlog: Backlog, seconds: float, found: Latencies) -> tuple[float, float]:
    """Ask a worker through its drain and for so many seconds after it; return its rate and its memory."""
    with watched_worker(url=url) as (worker, port):
        asker = Asker(port)
        with Background(asker.ask_until):
            wait_until_ended(worker, backlog.due)
            drained_at = time.time()
            time.sleep(seconds + 1)
        mib = highest_resident_mib(worker.pid)
        worker.stop()
    drain = window_of(url)
    found[DRAIN] += asker.latencies_ms(drain)
    found[QUIET] += asker.latencies_ms((drained_at + 1, drained_at + 1 + seconds))
    return backlog.due / max(drain[1] - drain[0], 0.001), mib


def figures(found: Latencies) -> list[Figure]:
    """Return percentiles of each kind; the goal is that of the drain."""
    return [
        Figure(f"{text} of /metrics {name}", value, "ms", goal)
        for name, times in found.items()
        for text, value, goal in (
            ("99th percentile", percentile(times, 0.99), Goal(20, at_most=True) if name == DRAIN else None),
            ("median", percentile(times, 0.5), None),
            ("longest", percentile(times, 1), None),
        )
    ]


def percentile(times: list[float], share: float) -> float:
    """Return the value below which this share lies; 0 where a quick run was too quick for any answer."""
    return quantile(sorted(times), share) if times else 0.0


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw how many of a thousand answers took longer, by time."""
    for name, times in raw["latency_ms_by_per_mille"].items():
        axes.plot(times, [1 - place / (len(times) - 1) for place in range(len(times))], label=name)
    axes.axvline(20, linestyle=":", color="tab:red", label="goal")
    axes.set(xscale="log", yscale="log", xlabel="ms", ylabel="share of answers that took longer", ylim=(0.001, 1))
    axes.legend(fontsize="small")
