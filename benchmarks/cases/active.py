"""What `ConversationRepository.count_active()` costs with 10,000,000 conversations, of which 1,000,000 are active.

To compare: 100,000 conversations, of which 20,000 are active. Both have more than are counted one by one, so after
10,001 index entries both are answered by PostgreSQL's own estimate. Each in two states:

- **after VACUUM**: the index alone says what is active;
- **changed and scattered**: those that the count reads first were all re-armed since, and each lies in another page
  (while there are enough): the count reads all of these pages to see which versions are visible.

On a fresh copy each time: **cold** is the first call, with no page of the database in the memory of the server or of
the operating system, **warm** the median of the calls after it. The time is that of the whole call: lapse's part, and
both statements. Then ANALYZE runs a few times, and each time the estimate is compared with the truth.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.backlogs import Backlog
from benchmarks.bench import Bench, connect
from benchmarks.processes import ProcessError
from benchmarks.results import Figure, Goal, Outcome, median
from benchmarks.statements import explained, statements_of
from lapse import ConversationService
from lapse.store.operations.due import EXACT_UP_TO

TITLE = "Counting active conversations"
CALLS, ANALYZES = 200, 5
VACUUMED, SCATTERED = "after VACUUM", "changed and scattered"
SMALL, LARGE = "100,000", "10,000,000"
_FILES = """
    SELECT current_setting('data_directory') || '/' || pg_relation_filepath(oid) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')
"""
_SCATTER = """
    UPDATE conversations SET idle_check_at = now() + interval '1 hour' + random() * interval '1 minute'
    FROM (
        SELECT owner_id, conv_id, row_number() OVER (ORDER BY conv_id) AS place FROM conversations
        WHERE status IN ('pending', 'progress')) AS active
    WHERE conversations.owner_id = active.owner_id AND conversations.conv_id = active.conv_id
        AND place %% greatest(%(active)s / %(wanted)s, 1) = 0
"""
_ACTIVE = "SELECT count(*) FROM conversations WHERE status IN ('pending', 'progress')"
Times = dict[str, dict[str, list[float]]]
"""Milliseconds of the calls by state and size; the first one is the cold one."""


def run(bench: Bench) -> Outcome:
    """Measure the small table, then the large one."""
    sizes = {
        SMALL: bench.backlog(between=80_000, live=20_000),
        LARGE: bench.backlog(history=9_000_000, live=1_000_000),
    }
    times: Times = {VACUUMED: {}, SCATTERED: {}}
    texts: dict[str, str] = {}
    errors: list[float] = []
    for size, backlog in sizes.items():
        try:
            for state, found in times.items():
                if state == SCATTERED:
                    scatter(bench, backlog)
                found[size], plan = calls_and_plan(bench, backlog)
                texts[f"{state} {size} rows".replace(" ", "-").replace(",", "")] = plan
                bench.say(f"{size} rows, {state}: cold {found[size][0]:.1f} ms, warm {warm(found[size]):.2f} ms")
            if size == LARGE:
                errors = errors_of_estimate(bench, backlog)
        finally:
            bench.server.forget(backlog)
    return Outcome(
        figures=figures(times, texts, errors),
        parameters={
            "rows": [backlog.rows for backlog in sizes.values()],
            "active": [backlog.live for backlog in sizes.values()],
            "counted_one_by_one": EXACT_UP_TO["postgresql"],
        },
        raw={"ms": times, "estimate_off_percent": errors},
        texts=texts,
    )


def figures(times: Times, texts: dict[str, str], errors: list[float]) -> list[Figure]:
    """Return what the size of the table matters, each time, and how good the estimate is."""
    ratio = warm(times[VACUUMED][LARGE]) / warm(times[VACUUMED][SMALL])
    name = "counting what is active among 10,000,000 rows against among 100,000"
    goal = Goal(10, at_most=True)
    found = [
        Figure(name, ratio, "times", Goal(2, at_most=True)),
        Figure("the estimate at 10,000,000 rows, off by at most, after ANALYZE", max(errors), "%", goal),
    ]
    for state, sizes in times.items():
        for size, calls in sizes.items():
            found.append(Figure(f"among {size} rows, {state}, cold", calls[0], "ms"))
            found.append(Figure(f"among {size} rows, {state}, warm", warm(calls), "ms"))
    for text, plan in texts.items():
        found.append(Figure(f"pages read, {text.replace('-', ' ')}", pages_of(plan)))
    return found


def warm(calls: list[float]) -> float:
    """Return the median of the calls but the first."""
    return median(calls[1:])


def scatter(bench: Bench, backlog: Backlog) -> None:
    """Let the conversations that are counted lie all over the table, in pages that no VACUUM has seen since."""
    wanted = EXACT_UP_TO["postgresql"] + 500
    with connect(bench.server.url_of(bench.server.template(backlog))) as connection:
        connection.execute(_SCATTER, {"active": backlog.live, "wanted": wanted})


def calls_and_plan(bench: Bench, backlog: Backlog) -> tuple[list[float], str]:
    """Count again and again, and return the time of each call in ms, and the plan of the count."""
    if not bench.server.has_template(backlog):
        bench.say(f"filling a database with {backlog.rows:,} conversations …")
    template = bench.server.template(backlog)
    with bench.server.copy_of(template, is_warm=False) as url, closing(ConversationService(url)) as service:
        service.conversation_repo.is_empty()  # connects
        forget_files(url)
        times: list[float] = []
        for _ in range(bench.rows(CALLS, least=5)):
            begin = time.perf_counter()
            service.conversation_repo.count_active()
            times.append(round(1000 * (time.perf_counter() - begin), 3))
        count, *_ = statements_of(service.conversation_repo.count_active)
        with connect(url) as connection:
            plan = explained(connection, count)
    if "Seq Scan on conversations" in plan:
        raise ProcessError(f"the count reads the table:\n{plan}")
    return times, plan


def forget_files(url: str) -> None:
    """Take what belongs to lapse's tables out of the operating system's memory."""
    os.sync()  # only what is on the disk can be forgotten
    with connect(url) as connection:
        paths = [Path(path) for (path,) in connection.execute(_FILES)]
    for path in paths:
        for part in path.parent.glob(f"{path.name}*"):
            file = os.open(part, os.O_RDONLY)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def errors_of_estimate(bench: Bench, backlog: Backlog) -> list[float]:
    """Return by how many percent `count_active` is off after each ANALYZE."""
    errors: list[float] = []
    with (
        bench.server.backlog(backlog) as url,
        closing(ConversationService(url)) as service,
        connect(url) as connection,
    ):
        ((truth,),) = connection.execute(_ACTIVE).fetchall()
        for _ in bench.rounds(ANALYZES):
            connection.execute("ANALYZE conversations")
            errors.append(round(100 * abs(service.conversation_repo.count_active() - truth) / truth, 3))
    return errors


def pages_of(plan: str) -> float:
    """Return how many pages a plan looked at, in memory or not."""
    line = re.search(r"Buffers: shared(.*)", plan)
    return sum(int(number) for number in re.findall(r"(?:hit|read)=(\d+)", line[1])) if line else 0


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw every call's time, in their order."""
    for state, sizes in raw["ms"].items():
        for size, calls in sizes.items():
            axes.plot(range(1, len(calls) + 1), calls, ".", markersize=4, label=f"{size} rows, {state}")
    axes.set(xlabel="call", ylabel="ms", xscale="log", yscale="log")
    axes.legend(fontsize="small")
