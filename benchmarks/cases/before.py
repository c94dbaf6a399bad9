"""The same work by this version of lapse and by 8160c0a, from before its operations were generators of steps.

Each version runs in a process of its own, on a database of its own on the same server: messages on existing
conversations, 5,000 of them in turn, for half a second at a time, and sweeps that end 5,000 due ones in batches of 100.
The two take turns, the one that begins changes from round to round, and a figure is the median over rounds of this
version's time divided by the other's. After every twelve rounds both processes begin anew: a process is some hundredths
faster or slower than the next one of the same code, for all its life.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import product

import psycopg

from benchmarks.bench import Bench
from benchmarks.processes import Process, running
from benchmarks.results import Figure, Goal, Outcome, median
from benchmarks.turns import ONE_BY_ONE, take_turns
from benchmarks.versions import BEFORE, LONGEST, sources

TITLE = "Beside the version before"
CONVERSATIONS = 5_000
SLICE_SECONDS = 0.5
LIVES, SLICES, SWEEPS = 6, 12, 6
MAKE_DUE = {
    "postgresql": "UPDATE conversations SET expires_at = now() - interval '1 minute' WHERE status = 'pending'",
    "sqlite": "UPDATE conversations SET expires_at = datetime('now', '-1 minute') WHERE status = 'pending'",
}

Turn = Callable[[], float]


def run(bench: Bench) -> Outcome:
    """Let the two versions take turns."""
    versions = sources(bench.folder)
    number = bench.rows(CONVERSATIONS)
    seconds = bench.seconds(SLICE_SECONDS, least=0.05)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for dialect, life in product(("postgresql", "sqlite"), bench.rounds(LIVES)):
        with ExitStack() as stack:
            urls = {name: stack.enter_context(database(bench, dialect, f"{name}-{life}")) for name in versions}
            processes = {
                name: stack.enter_context(
                    running(ONE_BY_ONE, "--customers", "0", str(number), url=urls[name], source=source)
                )
                for name, source in versions.items()
            }
            for process in processes.values():
                process.hear()
            messages = {name: message_turn(process, seconds) for name, process in processes.items()}
            take_turns(bench.rounds(SLICES), messages, found[f"a message on {dialect}"])
            sweeps = {name: sweep_turn(process, urls[name]) for name, process in processes.items()}
            take_turns(bench.rounds(SWEEPS), sweeps, found[f"a sweep on {dialect}"])
    figures = []
    for what, seconds_of in found.items():
        ratio = median(now / then for now, then in zip(seconds_of["now"], seconds_of["before"], strict=True))
        now, then = (1e6 * median(seconds_of[name]) for name in ("now", "before"))
        bench.say(f"{what}: {now:.0f} µs, before {then:.0f} µs: {ratio:.3f}")
        figures += [
            Figure(f"{what}, against {BEFORE}", ratio, "times", Goal(LONGEST, at_most=True)),
            Figure(f"{what}", now, "µs"),
            Figure(f"{what}, {BEFORE}", then, "µs"),
        ]
    return Outcome(
        figures=figures,
        parameters={"conversations": number, "slice_seconds": seconds},
        raw={what: dict(of) for what, of in found.items()},
    )


@contextmanager
def database(bench: Bench, dialect: str, name: str) -> Iterator[str]:
    """Hand out the URL of an empty database."""
    if dialect == "sqlite":
        yield f"sqlite:///{bench.folder / f'{name}.db'}"
    else:
        with bench.server.copy_of("template0", is_warm=False) as url:
            yield url


def message_turn(process: Process, seconds: float) -> Turn:
    """Return what lets a version send messages for so long, and tells the seconds for each."""

    def turn() -> float:
        process.tell(f"messages {seconds}")
        return float(process.hear()["seconds"])

    return turn


def sweep_turn(process: Process, url: str) -> Turn:
    """Return what lets a version end all of its conversations, and tells the seconds for each."""

    def turn() -> float:
        make_due(url)
        process.tell("sweep")
        return float(process.hear()["seconds"])

    return turn


def make_due(url: str) -> None:
    """Let all conversations be past their expiry."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file, file:
            file.execute(MAKE_DUE["sqlite"])
    else:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute(MAKE_DUE["postgresql"].encode())
            server.execute("VACUUM conversations")
