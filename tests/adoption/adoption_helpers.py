"""Adoption in the test's own process: what the command does, without its start."""

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
from tests.adoption.legacy_table import PLAIN, Form, create_legacy_table, fill

ROWS = 400
ENDED = 39
"""Of the 80 open ones that `fill` makes then, the first and the last have no other one of their pair."""
LegacyConnection = psycopg.Connection[Any]


def filled_table(connection: LegacyConnection, form: Form = PLAIN) -> LegacyConnection:
    """Make the legacy table, with some years in it."""
    create_legacy_table(connection, form)
    fill(connection, ROWS, form)
    return connection


def values(connection: LegacyConnection, query: str, *parameters: Any) -> list[Any]:
    """Return the rows of a query, or the values where it has one column."""
    rows = connection.execute(query.encode(), parameters or None).fetchall()
    return [row[0] if len(row) == 1 else row for row in rows]


def error_codes(url: str) -> list[str]:
    """Return the codes of the errors that the doctor finds."""
    with closing(Database(url)) as database:
        return [found.code for found in examine(database).findings if found.level == "error"]


class RecordingReporter:
    """A reporter that records which steps were done, and the messages."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.messages: list[str] = []

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        yield
        self.done.append(step.key)

    def advance(self, done: int, total: int) -> None:
        pass

    def message(self, line: str) -> None:
        self.messages.append(line)


def adopt(
    url: str,
    *,
    keep: str | None = None,
    idle_timeout_seconds: int = 1_800,
    progress: RecordingReporter | None = None,
    stop_event: StopEvent | None = None,
) -> RecordingReporter:
    """Adopt the table of this database, whole; return the reporter."""
    progress, stop_event = progress or RecordingReporter(), stop_event or StopEvent()

    def work(connection: Connection) -> None:
        Adoption(store=connection, keep=keep, idle_timeout_seconds=idle_timeout_seconds, stop_event=stop_event).run(
            progress
        )

    with closing(Database(url)) as database:
        database.autocommit(work, retry=False)
    return progress


class Killed(BaseException):
    """The end of an adoption, by the test."""


class Killer(RecordingReporter):
    """A reporter that ends an adoption before or after a step."""

    def __init__(self, step: str, *, before: bool) -> None:
        super().__init__()
        self._step = step
        self._before = before

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        if step.key == self._step and self._before:
            raise Killed
        with super().step(step):
            yield
        if step.key == self._step:
            raise Killed


def adopt_until(url: str, step: str, *, before: bool = False) -> None:
    """Adopt up to a step, and leave it there."""
    with pytest.raises(Killed):
        adopt(url, progress=Killer(step, before=before))


def remaining(url: str) -> list[Step]:
    """Return the steps that are left."""
    with closing(Database(url)) as database:
        return database.autocommit(
            lambda connection: Adoption(store=connection, idle_timeout_seconds=1_800).dry_run()[0], retry=False
        )
