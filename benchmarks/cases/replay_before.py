"""The replay of two made-up logs, beside that of 52276e8; and the memory of a long one.

- **Dense**: 1,000,000 messages of 100,000 customers over 30 days, in dialogues of a few minutes.
- **Sparse**: 200,000 messages of 38,000 pairs over six months, with hours between the messages of a dialogue: before
  nearly each the conversation had been paused, or there was none.

In both the business begins a dialogue, or answers before the first pause. For 52276e8 brings a paused conversation back
to `progress` always, this version to `pending` where nobody has answered: here somebody always has, and the events must
be the same.

Both versions replay the same beginning of each log, in order of time: 50,000 messages of the dense one, 10,000 of the
sparse one; the rest is let out, for 52276e8 takes a quarter of an hour for it. Messages a second of these are compared,
in processes of their own that take turns, each into a new SQLite file; reading the log is not in the time. The events
of both files are compared by pair and version: statuses, deadline, moment, reason and actor.

Then this version replays all of both logs, while `/proc/PID/smaps_rollup` says every quarter of a second what is
resident. The slope is that of least squares over the samples of the last nine tenths of the time.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import linear_regression
from threading import Event
from typing import Any

from benchmarks import logs
from benchmarks.background import Background
from benchmarks.bench import Bench
from benchmarks.processes import NOW, running
from benchmarks.results import Figure, Goal, Outcome, median
from benchmarks.turns import take_turns
from benchmarks.versions import UNGROUPED, sources
from benchmarks.watching import highest_resident_mib, resident_mib

TITLE = "Replay beside the version before"
DENSE, DENSE_CUSTOMERS, DENSE_PART = 1_000_000, 100_000, 50_000
SPARSE, SPARSE_PAIRS, SPARSE_PART = 200_000, 38_000, 10_000
ROUNDS = 3
SAMPLE_EVERY_SECONDS = 0.25
FLAT_MIB = 5
"""Growth over the last nine tenths that is still called flat."""
HELPER = "benchmarks.helpers.replayer"
EVENTS = """
    SELECT c.owner_id, c.channel, c.session_key, c.started_at, e.version, e.type, e.from_status, e.to_status,
        e.deadline, e.occurred_at, e.reason, e.actor
    FROM conversation_events AS e JOIN conversations AS c ON c.conv_id = e.conv_id
"""


def run(bench: Bench) -> Outcome:
    """Let both versions replay a part of each log, then this one all."""
    dense = logs.dense(bench.rows(DENSE, least=2_000), bench.rows(DENSE_CUSTOMERS))
    sparse = logs.sparse(bench.rows(SPARSE, least=2_000), bench.rows(SPARSE_PAIRS))
    paths = {name: bench.folder / f"{name}.csv" for name in ("dense", "sparse")}
    parts = {"dense": bench.rows(DENSE_PART, least=1_000), "sparse": bench.rows(SPARSE_PART, least=300)}
    rates: dict[str, dict[str, list[float]]] = {}
    different: dict[str, tuple[int, int]] = {}
    for name, lines in (("dense", dense), ("sparse", sparse)):
        logs.write_log(part := bench.folder / f"{name}-part.csv", lines[: parts[name]])
        logs.write_log(paths[name], lines)
        rates[name], different[name] = beside(bench, part, parts[name])
        ratio = compared(rates[name])
        bench.say(
            f"{name}: {ratio:.1f} times {UNGROUPED}, {different[name][0]} of {different[name][1]:,} events differ"
        )
    silent = 100 * logs.silences(sparse)
    numbers = {"dense": len(dense), "sparse": len(sparse)}
    del dense, sparse
    samples: dict[str, dict[str, Any]] = {name: {} for name in paths}
    whole = {
        name: replayed(bench.folder / f"{name}.db", path, numbers[name], samples[name]) for name, path in paths.items()
    }
    return Outcome(
        figures=figures(rates, different, whole, samples["dense"], numbers, silent),
        parameters={f"messages_of_the_{name}_log": number for name, number in numbers.items()}
        | {f"messages_of_its_part_{name}": number for name, number in parts.items()},
        raw={"per_second": rates, "whole_seconds": whole, "memory": samples},
    )


def beside(bench: Bench, path: Path, number: int) -> tuple[dict[str, list[float]], tuple[int, int]]:
    """Let both versions replay a log in turns; return messages a second, and how many events differ, of how many."""
    versions = sources(bench.folder, UNGROUPED)
    files = {name: bench.folder / f"{path.stem}-{name}.db" for name in versions}

    def turn(name: str) -> float:
        files[name].unlink(missing_ok=True)
        return number / replayed(files[name], path, number, None, versions[name])

    rates: dict[str, list[float]] = {name: [] for name in versions}
    take_turns(bench.rounds(ROUNDS), {name: partial(turn, name) for name in versions}, rates)
    before, now = (events_of(files[name]) for name in ("before", "now"))
    return rates, (len(before ^ now), len(before))


def replayed(database: Path, log: Path, number: int, samples: dict[str, Any] | None, source: Path = NOW) -> float:
    """Replay a log into a new file, and return the seconds.

    Args:
        database: the file.
        log: the messages.
        number: of the messages that are replayed.
        samples: takes the moments and MiB of resident memory; None: nobody looks.
        source: of the version.
    """
    with running(HELPER, str(log), str(number), url=f"sqlite:///{database}", source=source) as process:
        process.hear()
        if samples is None:
            process.tell("go")
            return float(process.hear()["seconds"])
        moments: list[float] = samples.setdefault("moments", [])
        mib: list[float] = samples.setdefault("mib", [])

        def look(over: Event) -> None:
            begin = time.monotonic()
            while not over.is_set():
                moments.append(round(time.monotonic() - begin, 3))
                mib.append(round(resident_mib(process.pid), 3))
                over.wait(SAMPLE_EVERY_SECONDS)

        with Background(look):
            process.tell("go")
            seconds = float(process.hear()["seconds"])
        samples["highest"] = highest_resident_mib(process.pid)
    return seconds


def events_of(path: Path) -> set[tuple[Any, ...]]:
    """Return all events of a file."""
    with closing(sqlite3.connect(path)) as file:
        return set(file.execute(EVENTS))


def compared(rates: dict[str, list[float]]) -> float:
    """Return how many times as many messages a second: the median over rounds."""
    return median(now / before for now, before in zip(rates["now"], rates["before"], strict=True))


def figures(
    rates: dict[str, dict[str, list[float]]],
    different: dict[str, tuple[int, int]],
    whole: dict[str, float],
    samples: dict[str, Any],
    numbers: dict[str, int],
    silent: float,
) -> list[Figure]:
    """Return ratios, what differs, and the memory."""
    first = len(samples["mib"]) // 10
    moments, mib = samples["moments"][first:], samples["mib"][first:]
    slope = linear_regression(moments, mib).slope if len(moments) > 1 else 0.0
    growth = slope * (moments[-1] - moments[0])
    none, flat = Goal(0, at_most=True), Goal(FLAT_MIB, at_most=True)
    return [
        Figure(f"replay of a dense log, against {UNGROUPED}", compared(rates["dense"]), "times", Goal(4)),
        Figure(f"replay of a sparse log, against {UNGROUPED}", compared(rates["sparse"]), "times", Goal(15)),
        *(Figure(f"events that differ, {name} log", number, "", none) for name, (number, _) in different.items()),
        *(Figure(f"events that were compared, {name} log", number) for name, (_, number) in different.items()),
        Figure("growth of the resident memory over the last nine tenths of a dense log", growth, "MiB", flat),
        Figure("resident memory, the first sample of these", mib[0], "MiB"),
        Figure("resident memory, the last sample", mib[-1], "MiB"),
        Figure("the highest at any moment, reading the log among them (VmHWM)", samples["highest"], "MiB"),
        *(
            Figure(f"messages of the part, {name} log, {side}", median(found), "1/s")
            for name, of in rates.items()
            for side, found in ((UNGROUPED, of["before"]), ("this version", of["now"]))
        ),
        *(
            Figure(f"messages of the whole {name} log", numbers[name] / seconds, "1/s")
            for name, seconds in whole.items()
        ),
        Figure("messages of the sparse log after a silence longer than the idle timeout", silent, "%"),
    ]


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw the memory over the time of the dense replay."""
    of = raw["memory"]["dense"]
    axes.plot(of["moments"], of["mib"], label="resident")
    axes.set(xlabel="seconds", ylabel="MiB", xlim=(0, None), ylim=(0, None))
    axes.legend(fontsize="small", loc="lower right")
