"""A worker of this version and one of 52276e8 end the same backlog of expired conversations.

Each has fresh copies of a database with the same rows, whose schema is its own version's. As in
[ending due conversations](#ending-due-conversations): default settings, `BackgroundWorker(...).run_once()` in a process
of its own, until nothing is due, and the time is the worker's own. The two take turns, and the one that begins changes
from round to round; the ratio is the median over rounds.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.backlogs import Backlog
from benchmarks.bench import Bench
from benchmarks.processes import ProcessError, run_at_once
from benchmarks.results import Figure, Goal, Outcome, median
from benchmarks.turns import take_turns
from benchmarks.versions import UNGROUPED, sources

TITLE = "Ending beside the version before"
DUE, BETWEEN, LIVE = 200_000, 250_000, 50_000
ROUNDS = 8


def run(bench: Bench) -> Outcome:
    """Let the two versions take turns."""
    backlog = bench.backlog(due=DUE, between=BETWEEN, live=LIVE)
    versions = sources(bench.folder, UNGROUPED)
    rates: dict[str, list[float]] = {name: [] for name in versions}
    turns = {name: lambda source=source: rate_of(bench, backlog, source) for name, source in versions.items()}
    take_turns(bench.rounds(ROUNDS), turns, rates)
    bench.server.forget(backlog, versions["before"])
    ratio = median(now / before for now, before in zip(rates["now"], rates["before"], strict=True))
    now, before = median(rates["now"]), median(rates["before"])
    bench.say(f"{now:,.0f}/s, {UNGROUPED} {before:,.0f}/s: {ratio:.3f}")
    return Outcome(
        figures=[
            Figure(f"ending due conversations, against {UNGROUPED}", ratio, "times", Goal(1.05)),
            Figure("conversations ended", now, "1/s"),
            Figure(f"conversations ended by {UNGROUPED}", before, "1/s"),
        ],
        parameters={"due": backlog.due, "rows": backlog.rows},
        raw={"per_second": rates},
    )


def rate_of(bench: Bench, backlog: Backlog, source: Path) -> float:
    """Let one worker end everything, and return how many a second.

    Raises:
        ProcessError: it did not.
    """
    with bench.filled(backlog, source) as url:
        (found,) = run_at_once([["benchmarks.helpers.drain"]], url, source)
    if not found["succeeded"] or found["ended"] != backlog.due:
        raise ProcessError(f"the worker has ended {found['ended']} of {backlog.due} conversations")
    return float(found["ended"] / found["seconds"])
