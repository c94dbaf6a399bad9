"""`record_message` by many callers at once, and by one alone, beside that of 52276e8 on one connection.

Each version has a database of its own, with its own schema and the same 10,000 open conversations among 100,000. In
turns of a second, one process each:
52276e8 sends messages one by one on one connection; so does this version; a task alone awaits one after the other; 64
tasks of one event loop do, all at once; and 64 threads that share a service. Each caller has customers of its own, and
sends its next message when the one before it is answered, which is after the commit. A latency is that of the whole
call; its 99th percentile is that of a turn, the median over turns. The order changes from round to round, the processes
begin anew after six rounds, and a ratio is the median over rounds.
"""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.results import Figure, Goal, Outcome, median
from benchmarks.turns import (
    Found,
    compared,
    contestants,
    in_seconds,
    nothing_found,
    rate_of,
    take_turns,
    times,
    turn_of,
)

TITLE = "Many callers at once"
CONVERSATIONS = 10_000
SLICE_SECONDS = 1.0
LIVES, SLICES = 3, 6
LONGEST_MS = 8
SIDES = {
    "before": "52276e8 on one connection",
    "now": "one thread alone",
    "alone": "one task alone",
    "tasks": "64 tasks",
    "threads": "64 threads",
}


def run(bench: Bench) -> Outcome:
    """Let them take turns."""
    number, seconds = bench.rows(CONVERSATIONS, least=1_000), bench.seconds(SLICE_SECONDS, least=0.1)
    found = nothing_found()
    for life in bench.rounds(LIVES):
        with contestants(bench, "postgresql", number, f"callers{life}") as processes:
            turns = {side: turn_of(processes[side], "messages", seconds) for side in ("before", "now")}
            turns |= {side: turn_of(processes["groups"], side, seconds) for side in ("alone", "tasks", "threads")}
            take_turns(bench.rounds(SLICES), turns, found)
    ratios = ", ".join(f"{name} {times(found, side, 'before'):.2f}" for side, name in SIDES.items())
    bench.say(f"{ratios}; 99 % of the tasks' calls within {latency(found, 'tasks', 'p99'):.1f} ms")
    return Outcome(
        figures=figures(found),
        parameters={"conversations": number, "slice_seconds": seconds, "callers": 64},
        raw=in_seconds({"turns": found}),
    )


def figures(found: Found) -> list[Figure]:
    """Return ratios with their goals, then latencies and rates."""
    most = Goal(LONGEST_MS, at_most=True)
    return [
        compared("64 tasks at once, against 52276e8 on one connection", found, "tasks", "before", 20),
        Figure("99th percentile of a call of 64 tasks", latency(found, "tasks", "p99"), "ms", most),
        compared("64 threads at once, against 52276e8 on one connection", found, "threads", "before", 8),
        compared("a lone thread, against 52276e8", found, "now", "before", 1.0),
        compared("a lone task, against 52276e8 in a thread", found, "alone", "before", 0.8),
        *(Figure(f"{name}, messages", rate_of(found, side), "1/s") for side, name in SIDES.items()),
        Figure("median of a call of 64 tasks", latency(found, "tasks", "median"), "ms"),
        Figure("median of a call of 64 threads", latency(found, "threads", "median"), "ms"),
        Figure("99th percentile of a call of 64 threads", latency(found, "threads", "p99"), "ms"),
        Figure("longest call of 64 tasks in any turn", max(turn["longest"] for turn in found["tasks"]), "ms"),
    ]


def latency(found: Found, side: str, which: str) -> float:
    """Return the milliseconds of a call, the median over turns."""
    return median(turn[which] for turn in found[side])
