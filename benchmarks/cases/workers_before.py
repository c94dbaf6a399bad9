"""A worker of this version and one of 8160c0a, from before operations were generators of steps, do the same work.

Each has a fresh copy of the same database, and default settings. With `--http` it drains 100,000 due conversations: the
time is that from the first event to the last, and `/proc/PID/smaps_rollup` says what is resident then. After that, a
worker runs while 200 a second come due for 20 seconds, half by their expiry and half by their idle timeout: lag is
`occurred_at - deadline` of their events. The two take turns, and the one that begins changes from round to round. A
ratio is the median over rounds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.arrivals import arrivals
from benchmarks.bench import Bench, connect
from benchmarks.drains import wait_until_ended, window_of
from benchmarks.processes import running_worker
from benchmarks.results import Figure, Goal, Outcome, median, quantile
from benchmarks.versions import BEFORE, LONGEST, sources
from benchmarks.watching import resident_mib, watched_worker

TITLE = "A worker beside the version before"
DUE, BETWEEN, LIVE = 100_000, 250_000, 50_000
RATE, SECONDS, LEAD_SECONDS = 200, 20.0, 5.0
ROUNDS = 6
_LAGS = """
    SELECT extract(epoch FROM occurred_at - deadline)::float8 FROM conversation_events
    WHERE type IN ('expired', 'paused') AND extract(epoch FROM deadline) > %s
"""
_WHAT = {
    "ending": ("time to end a conversation of a backlog", "µs"),
    "lag": ("median lag", "s"),
    "late": ("99th percentile of lag", "s"),
    "memory": ("resident memory", "MiB"),
}


def run(bench: Bench) -> Outcome:
    """Let the two versions take turns."""
    backlog = bench.backlog(due=DUE, between=BETWEEN, live=LIVE)
    seconds = bench.seconds(SECONDS, least=2)
    versions = sources(bench.folder)
    rounds: list[dict[str, dict[str, float]]] = []
    for turn in bench.rounds(ROUNDS):
        found: dict[str, dict[str, float]] = {}
        for name in sorted(versions, reverse=turn % 2 == 0):
            with bench.filled(backlog, versions[name]) as url:
                found[name] = work(url, versions[name], backlog.due, seconds)
        rounds.append(found)
        bench.say(f"round {turn}: " + "; ".join(f"{name} {told(of)}" for name, of in found.items()))
    figures = []
    for key, (what, unit) in _WHAT.items():
        ratio = median(of["now"][key] / of["before"][key] for of in rounds)
        figures += [
            Figure(f"{what}, against {BEFORE}", ratio, "times", Goal(LONGEST, at_most=True)),
            Figure(what, median(of["now"][key] for of in rounds), unit),
            Figure(f"{what}, {BEFORE}", median(of["before"][key] for of in rounds), unit),
        ]
    return Outcome(
        figures=figures,
        parameters={"due": backlog.due, "rows": backlog.rows, "due_per_second": RATE, "seconds": seconds},
        raw={"rounds": rounds},
    )


def work(url: str, source: Path, due: int, seconds: float) -> dict[str, float]:
    """Let a worker drain its backlog and another one keep up so many seconds, and return what was seen."""
    with watched_worker(url=url, source=source) as (worker, _port):
        wait_until_ended(worker, due)
        memory = resident_mib(worker.pid)
        worker.stop()
    begin, end = window_of(url)
    # Before the worker: one that finds nothing to come waits for its interval, since nothing new is due so soon.
    with arrivals(url, RATE, LEAD_SECONDS):
        time.sleep(1)
        with running_worker(url=url, source=source) as worker, worker.heard_by(lambda line: None):
            time.sleep(LEAD_SECONDS + seconds)
    with connect(url) as connection:
        lags = sorted(lag for (lag,) in connection.execute(_LAGS, [end]))
    return {
        "ending": 1e6 * (end - begin) / due,
        "lag": quantile(lags, 0.5),
        "late": quantile(lags, 0.99),
        "memory": memory,
    }


def told(found: dict[str, float]) -> str:
    """Return what was seen in a line."""
    return ", ".join(f"{key} {found[key]:.3g} {unit}" for key, (_, unit) in _WHAT.items())


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw the ratios of the rounds."""
    for key, (what, _) in _WHAT.items():
        axes.plot([of["now"][key] / of["before"][key] for of in raw["rounds"]], marker="o", label=what)
    axes.axhline(LONGEST, linestyle=":", color="tab:red", label="goal")
    axes.set(xlabel="round", ylabel=f"this version ÷ {BEFORE}", ylim=(0, None))
    axes.legend(fontsize="small")
