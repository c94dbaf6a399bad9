"""Adopting in the test's own process: what the command does, without its start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from lapse import Database
from lapse.adoption.adopt import Adoption
from lapse.adoption.plan import Step


class Silent:
    """A watcher that remembers which steps were done, and what was waited for."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.told: list[str] = []

    @contextmanager
    def doing(self, step: Step) -> Iterator[None]:
        yield
        self.done.append(step.key)

    def advance(self, done: int, total: int) -> None:
        pass

    def tell(self, line: str) -> None:
        self.told.append(line)


def adopt(url: str, *, keep: str = "newest", idle_timeout_seconds: int = 1_800) -> Silent:
    """Adopt the table of this database, whole; return who watched."""
    watcher = Silent()
    with closing(Database(url)) as database:
        database.autocommit(
            lambda connection: Adoption(store=connection, keep=keep, idle_timeout_seconds=idle_timeout_seconds).run(
                watcher
            ),
            retry=False,
        )
    return watcher
