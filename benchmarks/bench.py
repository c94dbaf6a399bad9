"""What a benchmark is given: a scale, a server, databases, a folder, and a way to say how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.backlogs import Backlog
from benchmarks.processes import NOW
from benchmarks.results import Outcome
from benchmarks.server import BenchServer, bench_server


@dataclass(frozen=True, slots=True)
class Scale:
    """How much smaller than meant a run is; 1 is the full one."""

    rows: float = 1.0
    seconds: float = 1.0
    rounds: float = 1.0


QUICK = Scale(rows=0.005, seconds=0.05, rounds=0.2)
"""Shows that the benchmarks run. Its figures mean nothing."""


class Bench:
    """One run of the benchmarks; the server is started when one of them first asks for it."""

    def __init__(self, scale: Scale, major: int | None, folder: Path) -> None:
        """Use this scale, this major version of PostgreSQL, and this folder for files."""
        self.scale = scale
        self.folder = folder
        self._major = major
        self._exit = ExitStack()
        self._server: BenchServer | None = None

    def close(self) -> None:
        """Stop the server and remove its databases."""
        self._exit.close()

    @property
    def server(self) -> BenchServer:
        """Return the server, started."""
        if self._server is None:
            self._server = self._exit.enter_context(
                bench_server(self._major, {"fsync": "off"} if self.is_quick else {})
            )
        return self._server

    @property
    def is_quick(self) -> bool:
        """Tell whether this run only shows that the benchmarks run."""
        return self.scale == QUICK

    @property
    def started_server(self) -> BenchServer | None:
        """Return the server if a benchmark has asked for it."""
        return self._server

    def rows(self, full: int, least: int = 100) -> int:
        """Return so many rows at this scale."""
        return max(round(full * self.scale.rows), least)

    def seconds(self, full: float, least: float = 0.2) -> float:
        """Return so much time at this scale."""
        return max(full * self.scale.seconds, least)

    def rounds(self, full: int) -> range:
        """Return the numbers of so many rounds at this scale."""
        return range(1, max(round(full * self.scale.rounds), 1) + 1)

    def say(self, text: str) -> None:
        """Write a line for who waits."""
        print(f"    {text}", flush=True)

    def backlog(self, *, due: int = 0, between: int = 0, history: int = 0, live: int = 0) -> Backlog:
        """Return a backlog at this scale."""
        return Backlog(
            due=self.rows(due) if due else 0,
            between=self.rows(between) if between else 0,
            history=self.rows(history) if history else 0,
            live=self.rows(live) if live else 0,
        )

    def main_backlog(self) -> Backlog:
        """Return the one of which most figures speak: 200,000 due of 1,000,000."""
        return self.backlog(due=200_000, between=700_000, live=100_000)

    @contextmanager
    def filled(self, backlog: Backlog, source: Path = NOW) -> Iterator[str]:
        """Yield the URL of a fresh database with this backlog, in memory, after a checkpoint.

        Args:
            backlog: what it holds.
            source: of the version of lapse whose schema it has.
        """
        if not self.server.has_template(backlog, source):
            self.say(f"filling a database with {backlog.rows:,} conversations, {backlog.due:,} of them due …")
        with self.server.backlog(backlog, source) as url:
            yield url


Run = Callable[[Bench], Outcome]


@contextmanager
def connect(url: str) -> Iterator[psycopg.Connection]:
    """Hand out a plain connection in autocommit mode."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def complain(text: str) -> None:
    """Write a line to standard error."""
    print(text, file=sys.stderr, flush=True)
