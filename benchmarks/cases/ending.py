"""A backlog of expired conversations is ended, each time on a fresh copy of the same database.

- **lapse**: one worker with its default settings, `BackgroundWorker(...).run_once()` in a process of its own, until
  nothing is due; the time is the worker's own `execution_time_seconds`, so Python's start is not in it.
- **Bare pair**: one `UPDATE` over all that is due, one `INSERT` of their events, in one transaction.
- **The specification's way**: select 100, update them one by one by id; no events. On psycopg, in autocommit, which is
  more direct than its HTTP interface. It runs for a bounded time, and rates are compared.
- **Procrastinate**: a job for each conversation, deferred before the clock starts; concurrency 10; each job ends one
  conversation with its event, in one statement. Also for a bounded time.

The four alternate; a ratio is the median over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks.bench import Bench, connect
from benchmarks.peers import bare_pair, job_queue, specification
from benchmarks.peers.rate import Rate
from benchmarks.processes import ProcessError, run_at_once
from benchmarks.results import Figure, Goal, Outcome, median

TITLE = "Ending due conversations"
LAPSE, BARE, SPECIFICATION, JOB_QUEUE = "lapse", "bare pair", "specification's way", "Procrastinate"
EVENTS = "SELECT extract(epoch FROM occurred_at) FROM conversation_events WHERE type = 'expired' ORDER BY 1"


def run(bench: Bench) -> Outcome:
    """Let the four alternate."""
    backlog, seconds = bench.main_backlog(), bench.seconds(10)
    contestants: dict[str, Callable[[str], Rate]] = {
        BARE: bare_pair.end_all,
        LAPSE: lapse,
        SPECIFICATION: partial(specification.end_some, seconds=seconds),
    }
    rounds: list[dict[str, Rate]] = []
    with bench.filled(backlog) as jobs:
        templates = dict.fromkeys(contestants, bench.server.template(backlog))
        if job_queue.is_installed() or not bench.is_quick:
            bench.say("deferring a job for each …")
            job_queue.prepare(jobs)
            contestants[JOB_QUEUE] = partial(job_queue.end_some, seconds=seconds)
            templates[JOB_QUEUE] = jobs.rpartition("/")[2]
        for number in bench.rounds(5):
            rates: dict[str, Rate] = {}
            for name, end in contestants.items():
                with bench.server.copy_of(templates[name]) as url:
                    rates[name] = end(url)
            rounds.append(rates)
            bench.say(
                f"round {number}: " + ", ".join(f"{name} {rate.per_second:,.0f}/s" for name, rate in rates.items())
            )
    return Outcome(
        figures=figures(rounds),
        parameters={"due": backlog.due, "rows": backlog.rows, "seconds_of_the_slow": seconds},
        raw={"rounds": [{name: asdict(rate) for name, rate in rates.items()} for rates in rounds]},
    )


def lapse(url: str) -> Rate:
    """Let one worker end everything; the curve is that of the events."""
    (found,) = run_at_once([["benchmarks.helpers.drain"]], url)
    if not found["succeeded"]:
        raise ProcessError("the worker's task failed")
    with connect(url) as connection:
        moments = [float(moment) for (moment,) in connection.execute(EVENTS)]
    return Rate(found["ended"], found["seconds"], job_queue.rate_of(moments).curve)


def figures(rounds: list[dict[str, Rate]]) -> list[Figure]:
    """Return rates and ratios."""

    def ratio(to: str) -> float:
        return median(rates[LAPSE].per_second / rates[to].per_second for rates in rounds)

    goals = {
        BARE: ("ending due conversations, against a bare UPDATE and INSERT over all of them", 0.5),
        SPECIFICATION: ("the same, against the specification's way", 20),
        JOB_QUEUE: ("the same, against a job per conversation on Procrastinate", 100),
    }
    return [
        *(Figure(name, median(rates[name].per_second for rates in rounds), "1/s") for name in rounds[0]),
        *(Figure(text, ratio(to), "times", Goal(goal)) for to, (text, goal) in goals.items() if to in rounds[0]),
    ]


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw what is left over time, of the last round."""
    rates = raw["rounds"][-1]
    due = rates[LAPSE]["ended"]
    for name in (LAPSE, SPECIFICATION, JOB_QUEUE):
        moments, ended = zip(*rates[name]["curve"], strict=True)
        axes.plot(moments, [due - number for number in ended], label=name)
    axes.plot([0, rates[BARE]["seconds"], rates[BARE]["seconds"]], [due, due, 0], label=BARE, linestyle=":")
    axes.set(xlabel="seconds", ylabel="conversations still due", ylim=(0, None), xlim=(0, None))
    axes.legend()
