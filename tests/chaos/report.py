"""The table of docs/reliability.md, made from the results of the full runs: `python -m tests.chaos.report`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.outcome import RESULTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- made by `python -m tests.chaos.report` -->", "<!-- end -->"
HEAD = """| fault | what was done | what was seen | working again after | seed |
| --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Row:
    """One fault in words; `{…}` is filled from the counts of its latest run."""

    fault: str
    title: str
    done: str
    seen: str
    case: str = ""


_CALLERS = "{calls} calls, {errors_to_callers} given up after their retries"
ROWS = (
    Row(
        "killed_workers",
        "`kill -9` of workers",
        "{kills} kills over 4 workers, {backlog} due conversations, messages all the while",
        "{paused} pauses, {expired} expiries; {calls} calls, no error to a caller",
    ),
    Row(
        "lost_backends",
        "The database loses backends",
        "{terminations} terminated, {kills} killed with `kill -9`, {restarts} immediate restarts, under load",
        f"{{events}} transitions; {_CALLERS}; {{worker_complaints}} failures of workers, each in their log",
    ),
    Row(
        "cut_commits",
        "Connections cut in COMMIT",
        "{cuts} of {commits} commits: {cuts unsent} before it was sent, {cuts sent} on its way, {cuts unanswered} "
        "before the answer, {cuts half answered} within it",
        f"{{events}} transitions, none doubled, none lost; {_CALLERS}",
    ),
    Row(
        "interrupted_calls",
        "Interrupted calls",
        "{calls sqlite} calls on SQLite and {calls postgresql} on PostgreSQL, of 19 operations: at a random moment a "
        "signal handler raises an `Exception` or a `BaseException`, or another thread injects one",
        "{interrupted sqlite} and {interrupted postgresql} of them interrupted; each time the next message's answer "
        "was there for another connection, and no transaction, statement or lock was left",
    ),
    Row(
        "group_commit_under_fire",
        "Messages in groups, under fire",
        "4 processes of threads or tasks, two of them behind a proxy that cuts commits: {kills} ended with `kill -9`, "
        "{terminations} backends terminated, {restarts} immediate restarts, {cuts} connections cut; then all messages "
        "sent once more, with their ids",
        "{messages} messages, {unanswered} of them unanswered, of which {of_them_recorded} had been recorded; no "
        "acknowledged one lost, none doubled; the second sending: copies, and nothing changed",
        "postgresql",
    ),
    Row(
        "group_commit_under_fire",
        "Messages in groups on SQLite",
        "2 processes of threads or tasks on one file, {kills} ended with `kill -9`; then all messages sent once more",
        "{messages} messages, {unanswered} of them unanswered, of which {of_them_recorded} had been recorded; no "
        "acknowledged one lost, none doubled; the second sending: copies, and nothing changed; `PRAGMA "
        "integrity_check` is ok",
        "sqlite",
    ),
    Row(
        "waiting_calls",
        "Waits for a row that end",
        "{terminations} backends ended while they waited, {restarts} fast restarts, a `lock_timeout` of 100 ms",
        "{calls} calls, no error to a caller",
    ),
    Row(
        "isolation_by_default",
        "Repeatable read and serializable by default",
        "{messages} messages of 24 threads on one pair, {closes} closes; sweeps of {swept} due conversations, whose "
        "sessions were ended {sessions_ended} times",
        "one open conversation; each due one ended once, no error to a caller",
    ),
    Row(
        "server_settings",
        "Settings of role, database and server",
        "{kept} settings, one after the other, through the calls, the commands and the worker; {schemas} schemas made "
        "under one; {refused} that forbid to write or leave no time",
        "the same as without them; what they forbid, refused in one line",
    ),
    Row(
        "encodings",
        "Encodings of the database",
        "{encodings} databases, addresses and notes such as `joão€` and `日本`",
        "what an encoding holds is kept; what it does not is refused for that call alone",
    ),
    Row(
        "message_against_sweep",
        "A message against a sweep",
        "{interleavings} interleavings in 7 orders of their locks",
        "the message won or the sweep did, each wholly; {events} transitions",
    ),
    Row(
        "stopped_worker",
        "SIGSTOP of workers",
        "{short_stops} stops of up to a second, one of {long_stop_seconds} seconds, longer than every time limit",
        f"{{events}} transitions; {_CALLERS}",
    ),
    Row(
        "full_disk",
        "Disk full: tables",
        "no room for {full_seconds} seconds",
        "{retries} tries by the worker, each in its log; then {events} transitions",
        "tables",
    ),
    Row(
        "full_disk",
        "Disk full: write-ahead log",
        "no room for {full_seconds} seconds; crashes of the server: {crashes_of_the_server}",
        "{retries} failures of the worker, each in its log; then {events} transitions",
        "write-ahead log",
    ),
    Row(
        "full_disk",
        "Disk full: SQLite",
        "no room for {full_seconds} seconds",
        "{retries} tries by the worker, each in its log; then {events} transitions",
        "sqlite",
    ),
    Row(
        "read_only",
        "Read-only, sessions ended",
        "{read_only_seconds} seconds",
        "{retries} tries by a worker, each in its log; then {events} transitions",
        "ended",
    ),
    Row(
        "read_only",
        "Read-only, sessions kept",
        "{read_only_seconds} seconds; the sessions of that time would stay read-only",
        "{retries} tries by a worker, each in its log; then {events} transitions",
        "kept",
    ),
    Row(
        "sqlite_processes",
        "SQLite, many processes",
        "{processes} processes for {seconds} seconds, {kills} of them ended with `kill -9`",
        "{calls} calls, none told that the database is locked, the slowest {slowest_call_seconds} seconds; "
        "{events} transitions; `PRAGMA integrity_check` is ok",
    ),
    Row(
        "pinned_snapshot",
        "A pinned snapshot",
        "an open transaction of another session, during half of the ends of {conversations} conversations",
        "each ended once; a batch of {batch} took {batch_milliseconds_pinned} ms with it (median), "
        "{batch_milliseconds_free} ms without",
    ),
    Row(
        "wrong_clocks",
        "Wrong clocks",
        "a worker an hour fast, one an hour slow, one right; {conversations} conversations",
        "the same transitions; the latest {latest_seconds fast}, {latest_seconds slow} and {latest_seconds right} "
        "seconds after its deadline",
        "alone",
    ),
    Row(
        "wrong_clocks",
        "Wrong clocks together",
        "the same three workers on one database; {conversations} conversations",
        "the latest {latest_seconds all} seconds after its deadline",
        "together",
    ),
    Row(
        "adoption_under_fire",
        "`kill -9` of `lapse adopt`",
        "{kills} kills at {steps} of its steps, {conversations} conversations; four writers and a reader of the old "
        "application's all the while",
        "{statements} statements of the application, no error, the slowest {slowest_milliseconds} ms; no row lost, "
        "none changed but {duplicates} duplicates, which ended with an event each",
    ),
)


def latest_runs() -> dict[tuple[str, str], dict[str, Any]]:
    """Return each fault's latest run by its name and case."""
    runs = [run for file in sorted(RESULTS.glob("*.json")) for run in json.loads(file.read_text())]
    return {(run["fault"], run["case"]): run for run in runs}


def table() -> str:
    """Return the table and what the runs were made on."""
    runs = latest_runs()
    return HEAD + "".join(_row(row, runs[row.fault, row.case]) for row in ROWS) + "\n" + _made_on(runs.values())


def text_with_table(text: str) -> str:
    """Return the document's text with the table of today in its place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def _row(row: Row, run: dict[str, Any]) -> str:
    counts = {name: _spelled(value) for name, value in run["counts"].items()}
    again = counts.get("longest_recovery_seconds")
    done, seen = row.done.format_map(counts), row.seen.format_map(counts)
    cells = (row.title, done, seen, f"{again} s" if again else "", str(run["seed"]))
    return f"| {' | '.join(cells)} |\n"


def _made_on(runs: Iterable[dict[str, Any]]) -> str:
    found = list(runs)
    machines = {f"{run['machine']['cores']} cores, {run['machine']['memory_gb']} GB" for run in found}
    databases = {run["versions"]["database"] for run in found}
    dates = {run["date"] for run in found}
    minutes = sum(run["seconds"] for run in found) / 60
    return (
        f"Made on {', '.join(sorted(dates))} with {', '.join(sorted(databases))} on {', '.join(sorted(machines))}, "
        f"in {minutes:.0f} minutes altogether.\n"
    )


def _spelled(value: float) -> str:
    return f"{value:,}"


if __name__ == "__main__":
    DOCUMENT.write_text(text_with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
