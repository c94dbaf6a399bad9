"""Adopting in the test's own process: what the command does, without its start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

from lapse import Database
from lapse.adoption.adopt import Adoption
from lapse.adoption.doctor import examine
from lapse.adoption.plan import Step
from lapse.shutdown import StopEvent
from lapse.store.connection import Connection
from tests.adoption.old_table import PLAIN, Form, create_old_table, fill

ROWS = 400
ENDED = 39
"""Of the 80 open ones that `fill` makes then, the first and the last have no other one of their pair."""
OldConnection = psycopg.Connection[Any]


def filled_table(connection: OldConnection, form: Form = PLAIN) -> OldConnection:
    """Make the old table, with some years in it."""
    create_old_table(connection, form)
    fill(connection, ROWS, form)
    return connection


def values(connection: OldConnection, query: str, *parameters: Any) -> list[Any]:
    """Return the rows of a query, or the values where it has one column."""
    rows = connection.execute(query.encode(), parameters or None).fetchall()
    return [row[0] if len(row) == 1 else row for row in rows]


def troubles(url: str) -> list[str]:
    """Return the codes of the troubles that the doctor finds."""
    with closing(Database(url)) as database:
        return [found.code for found in examine(database).findings if found.level == "trouble"]


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
    stop_event: StopEvent | None = None,
) -> Silent:
    """Adopt the table of this database, whole; return who watched."""
    watcher, stop_event = watcher or Silent(), stop_event or StopEvent()

    def work(connection: Connection) -> None:
        Adoption(store=connection, keep=keep, idle_timeout_seconds=idle_timeout_seconds, stop_event=stop_event).run(
            watcher
        )

    with closing(Database(url)) as database:
        database.autocommit(work, retry=False)
    return watcher


class Killed(BaseException):
    """The end of an adoption, by the test."""


class Killer(Silent):
    """A watcher that ends an adoption before or after a step."""

    def __init__(self, step: str, *, before: bool) -> None:
        super().__init__()
        self._step = step
        self._before = before

    @contextmanager
    def doing(self, step: Step) -> Iterator[None]:
        if step.key == self._step and self._before:
            raise Killed
        with super().doing(step):
            yield
        if step.key == self._step:
            raise Killed


def adopt_until(url: str, step: str, *, before: bool = False) -> None:
    """Adopt up to a step, and leave it there."""
    with pytest.raises(Killed):
        adopt(url, watcher=Killer(step, before=before))


def remaining(url: str) -> list[Step]:
    """Return the steps that are left."""
    with closing(Database(url)) as database:
        return database.autocommit(
            lambda connection: Adoption(store=connection, idle_timeout_seconds=1_800).foresee()[0], retry=False
        )
