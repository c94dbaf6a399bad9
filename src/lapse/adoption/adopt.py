"""Adopting: step after step, each derived from what the database says, so that it goes on wherever it was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from psycopg import Connection, Error
from psycopg.errors import IntegrityError, RaiseException, UniqueViolation
from psycopg.pq import TransactionStatus

from lapse.addresses import mask_addresses
from lapse.adoption import plan as steps
from lapse.adoption.backfill import backfill
from lapse.adoption.duplicates import (
    Duplicate,
    end_duplicates,
    ended_duplicates,
    find_duplicates,
    foresee_duplicates,
)
from lapse.adoption.facts import Facts, read_facts
from lapse.adoption.lookout import looking
from lapse.adoption.plan import Step, plan
from lapse.adoption.pooling import require_own_session
from lapse.adoption.refusing import check_adoptable
from lapse.adoption.waiting_for_locks import PATIENCE_SECONDS, in_short_transaction
from lapse.errors import AdoptionError, InvalidInputError
from lapse.shutdown import STOP_GRACE_SECONDS, Interrupted, StopEvent
from lapse.store.connection import Connection as StoreConnection

_ONE_AT_A_TIME = 0x6C61707361  # "lapsa": next to the lock of migrations
APPLICATION_NAME = "lapse adopt"
_HOLDER = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32) + objid::bigint = %s"""
# Not each server has each of them.
_SET = "SELECT set_config(name, %s, false) FROM pg_settings WHERE name = %s"


class Watcher(Protocol):
    """Whoever is told how far an adoption is."""

    def doing(self, step: Step) -> AbstractContextManager[None]:
        """Enter it when a step begins, and leave it when it ends."""

    def advance(self, done: int, total: int) -> None:
        """So much of the step is done."""

    def tell(self, line: str) -> None:
        """Something is waited for."""


@dataclass(kw_only=True)
class Adoption:
    """One run of `lapse adopt`."""

    store: StoreConnection
    """In autocommit mode, and a session of its own: not one of a transaction pooler's."""
    keep: str | None = None
    """`newest` or `oldest`; None for the newest, or what an adoption that has begun goes by."""
    idle_timeout_seconds: int
    stop_event: StopEvent = field(default_factory=StopEvent)

    @property
    def connection(self) -> Connection[Any]:
        """The driver's own connection."""
        found: Connection[Any] = self.store.driver
        return found

    def facts(self) -> Facts:
        """Return how far the adoption is."""
        return read_facts(self.connection, keep=self.keep, idle_timeout_seconds=self.idle_timeout_seconds)

    def foresee(self) -> tuple[list[Step], list[Duplicate]]:
        """Return what is left to do, and which conversations will end; nothing is changed.

        Raises:
            AdoptionError: the table cannot be adopted.
        """
        check_adoptable(self.store)
        facts = self.facts()
        self._check_keep(facts)
        duplicates = self._duplicates(facts)
        return plan(facts, duplicates), duplicates

    def run(self, watcher: Watcher) -> int:
        """Adopt; return how many steps there were, 0 where all was done already.

        Raises:
            AdoptionError: the table cannot be adopted, or stayed locked.
            Interrupted: a stop signal came; what was done stays done.
            DatabaseError: the database refused, or was lost.
        """
        require_own_session(self.connection)  # for the settings and the lock
        done: set[str] = set()
        with alone(self.connection, self.wait, watcher):
            # Only now: of another adoption's work this one would see a part.
            check_adoptable(self.store)
            facts = self.facts()
            self._check_keep(facts)
            if facts.record is not None and facts.record.completed_at is None:
                watcher.tell(f"going on with the adoption that began at {facts.record.began_at:%Y-%m-%d %H:%M:%S %Z}")
            while step := next((step for step in plan(facts) if step.key not in done), None):
                self.wait(0)
                try:
                    with watcher.doing(step):
                        self._do(step, facts, watcher)
                except UniqueViolation:
                    if step.kind != steps.UNIQUE:
                        raise
                    # A transaction that was older than the triggers has opened another one: once more.
                    watcher.tell("a duplicate came late: looking for duplicates again")
                    done.discard(steps.DUPLICATES)
                else:
                    done.add(step.key)
                facts = self.facts()
        return len(done)

    def ended_duplicates(self) -> list[Duplicate]:
        """Return what this run and earlier ones have ended."""
        facts = self.facts()
        return ended_duplicates(self.connection, facts.names) if facts.record else []

    def wait(self, seconds: float) -> None:
        """Wait, and see whether to go on.

        Raises:
            Interrupted: no.
        """
        if self.stop_event.wait(seconds) if seconds else self.stop_event.is_set():
            raise Interrupted

    # --- inside -------------------------------------------------------------------------------------------------

    def _duplicates(self, facts: Facts) -> list[Duplicate]:
        if facts.has_unique_index:
            return []
        if facts.record is not None and facts.is_filled:
            return find_duplicates(self.connection, facts.names, facts.new.keep)
        has_channel = "channel" in facts.table.columns
        return foresee_duplicates(self.connection, facts.names, facts.new.keep, has_channel=has_channel)

    def _check_keep(self, facts: Facts) -> None:
        if self.keep not in (None, facts.new.keep):
            raise InvalidInputError(
                f"the adoption that has begun here keeps the {facts.new.keep} of a pair's open conversations; nothing "
                f"was changed: run it with --keep {facts.new.keep}, or without --keep"
            )

    def _do(self, step: Step, facts: Facts, watcher: Watcher) -> None:
        if step.kind in (steps.BACKFILL, steps.DUPLICATES):
            with self.interruptible(STOP_GRACE_SECONDS), _refusals_explained(facts.names.conversations):
                self._write_rows(step, facts, watcher)
        elif step.is_transaction:
            with self.interruptible(STOP_GRACE_SECONDS):
                table = facts.names.conversations
                in_short_transaction(self.connection, table, step.statements, wait=self.wait, tell=watcher.tell)
        else:
            for statement in step.statements:
                self.run_long(statement, watcher)

    def _write_rows(self, step: Step, facts: Facts, watcher: Watcher) -> None:
        if step.kind == steps.BACKFILL:
            backfill(self.connection, facts.names, wait=self.wait, on_batch=watcher.advance)
            return
        end_duplicates(
            self.connection,
            facts.names,
            facts.new.keep,
            facts.table.columns["conv_id"].type,
            wait=self.wait,
            on_batch=watcher.advance,
        )

    def run_long(self, statement: str, watcher: Watcher) -> None:
        """Run a statement that no transaction may hold, however long it takes; a stop cancels it.

        Raises:
            Interrupted: a stop signal came.
        """
        with looking(self.connection, watcher.advance, watcher.tell), self.interruptible():
            self.connection.execute(statement.encode())

    @contextmanager
    def interruptible(self, grace_seconds: float = 0.0) -> Iterator[None]:
        """Let a stop signal end what is inside, in the database as well, after so many seconds of patience.

        Raises:
            Interrupted: a stop signal came.
        """
        try:
            with self.stop_event.interruptible(grace_seconds):
                yield
        except Interrupted:
            if _is_at_work(self.connection):
                with suppress(Error):
                    self.connection.cancel_safe(timeout=STOP_GRACE_SECONDS)
            raise


@contextmanager
def _refusals_explained(table: str) -> Iterator[None]:
    """Say what to do where a row that is there already is not let through again."""
    try:
        yield
    except (IntegrityError, RaiseException) as error:
        reason = mask_addresses(error.diag.message_primary or type(error).__name__)
        raise AdoptionError(
            f"a constraint or trigger of the application's refuses a row of {table} that is there already ({reason}): "
            "mend the row or the rule and run it again, which goes on from here; or `lapse unadopt`"
        ) from None


@contextmanager
def alone(connection: Connection[Any], wait: Callable[[float], object], watcher: Watcher) -> Iterator[None]:
    """Let one adoption after the other go on, and none be cut short by a timeout of the role's."""
    for setting, value in (
        ("application_name", APPLICATION_NAME),
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("transaction_timeout", "0"),
        ("default_transaction_isolation", "read committed"),
    ):
        connection.execute(_SET, [value, setting])
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    # Asked again and again: who waits inside the database is waited for by CREATE INDEX CONCURRENTLY.
    while not _value(connection, "SELECT pg_try_advisory_lock(%s)"):
        other = f"another adoption, or what a killed one left in the database (pid {_value(connection, _HOLDER)})"
        watcher.tell(f"waiting for the end of {other}")
        if time.monotonic() > give_up_at:
            raise AdoptionError(f"{other} has been at work for ten minutes: wait for its end, then run this again")
        wait(0.5)
    try:
        yield
    finally:
        # One that is lost, or was left in a statement, is closed by the pool, and the lock goes with it.
        if not (connection.closed or connection.broken or _is_at_work(connection)):
            _value(connection, "SELECT pg_advisory_unlock(%s)")


def _is_at_work(connection: Connection[Any]) -> bool:
    return connection.info.transaction_status == TransactionStatus.ACTIVE


def _value(connection: Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode(), [_ONE_AT_A_TIME]).fetchone()
    return row[0] if row else None
