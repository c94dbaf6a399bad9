"""Processor time of `lapse worker` with default settings in a table of 100,000 conversations, of which nothing is due.

Three workers at the same time, each left alone in another way for three minutes: one with `--http`, scraped every 15
seconds, and asked for `/livez` and `/readyz` every 10; one with `--http` that nobody asks; one without. The time is
that of all threads, user and system, by `/proc/PID/stat`, from five seconds after the start on.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack

from benchmarks.bench import Bench
from benchmarks.processes import Process, running_worker
from benchmarks.results import Figure, Goal, Outcome
from benchmarks.watching import PROBES, PROMETHEUS, cpu_seconds, watched_worker, watching

TITLE = "A worker with nothing to do"
SECONDS = 180
SETTLE_SECONDS = 5
ASKED, UNASKED, CLOSED = "scraped and probed", "with --http, but not asked", "without --http"


def run(bench: Bench) -> Outcome:
    """Let the three wait side by side."""
    backlog = bench.backlog(between=90_000, live=10_000)
    seconds = bench.seconds(SECONDS, least=2)
    answers: Counter[str] = Counter()
    with bench.filled(backlog) as url, ExitStack() as stack:
        asked, port = stack.enter_context(watched_worker(url=url))
        unasked, _ = stack.enter_context(watched_worker(url=url))
        closed = stack.enter_context(running_worker(url=url))
        closed.hear_event("worker started")
        time.sleep(bench.seconds(SETTLE_SECONDS, least=1))
        paths = {path: bench.seconds(every) for path, every in (PROMETHEUS | PROBES).items()}
        with watching(port, paths, answers):
            used = used_while(seconds, {ASKED: asked, UNASKED: unasked, CLOSED: closed})
    share = {name: 100 * found / seconds for name, found in used.items()}
    bench.say(", ".join(f"{name} {found:.3f} %" for name, found in share.items()))
    return Outcome(
        figures=[
            Figure(f"of a core, when nothing is due, {ASKED}", share[ASKED], "%", Goal(0.5, at_most=True)),
            Figure(f"of a core, {UNASKED}", share[UNASKED], "%"),
            Figure(f"of a core, {CLOSED}", share[CLOSED], "%"),
        ],
        parameters={"seconds": seconds, "rows": backlog.rows},
        raw={"cpu_seconds": used, "asked": dict(answers)},
    )


def used_while(seconds: float, workers: dict[str, Process]) -> dict[str, float]:
    """Return the processor time that each of them takes in so many seconds."""
    before = {name: cpu_seconds(worker.pid) for name, worker in workers.items()}
    time.sleep(seconds)
    return {name: round(cpu_seconds(worker.pid) - before[name], 2) for name, worker in workers.items()}
