"""Adopting in the test's own process: what the command does, without its start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from lapse import Database
from lapse.adoption.adopt import Adoption
from lapse.adoption.plan import Step
from lapse.stopping import StopFlag
from lapse.store.connection import Connection


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


def adopt(
    url: str,
    *,
    keep: str | None = None,
    idle_timeout_seconds: int = 1_800,
    watcher: Silent | None = None,
    stop_flag: StopFlag | None = None,
) -> Silent:
    """Adopt the table of this database, whole; return who watched."""
    watcher, stop_flag = watcher or Silent(), stop_flag or StopFlag()

    def work(connection: Connection) -> None:
        Adoption(store=connection, keep=keep, idle_timeout_seconds=idle_timeout_seconds, stop_flag=stop_flag).run(
            watcher
        )

    with closing(Database(url)) as database:
        database.autocommit(work, retry=False)
    return watcher
