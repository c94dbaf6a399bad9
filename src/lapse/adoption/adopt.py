"""Adoption: each step is derived from the database's current state, so that an interrupted run can be resumed."""

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
    preview_duplicates,
)
from lapse.adoption.lock_retries import LOCK_WAIT_SECONDS, with_lock_retries
from lapse.adoption.plan import Step, plan
from lapse.adoption.pooling import require_own_session
from lapse.adoption.preflight import check_adoptable
from lapse.adoption.state import AdoptionState, read_state
from lapse.errors import AdoptionError, InvalidInputError
from lapse.shutdown import STOP_GRACE_SECONDS, Interrupted, StopEvent
from lapse.store.connection import Connection as StoreConnection
from lapse.store.statement_progress import report_progress

_ADVISORY_LOCK = 0x6C61707361  # "lapsa": next to the lock of migrations
APPLICATION_NAME = "lapse adopt"
_LOCK_HOLDER = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32) + objid::bigint = %s"""
# By a query, since not every server version has every setting.
_SET = "SELECT set_config(name, %s, false) FROM pg_settings WHERE name = %s"


class ProgressReporter(Protocol):
    """Receives the progress of an adoption or of its revert."""

    def step(self, step: Step) -> AbstractContextManager[None]:
        """Return a context manager that is entered when a step begins, and left when it ends."""

    def advance(self, done: int, total: int) -> None:
        """Report how much of the current step is done, in blocks, pages or conversations."""

    def message(self, line: str) -> None:
        """Report an event, such as what is waited for."""


@dataclass(kw_only=True)
class Adoption:
    """One run of `lapse adopt`."""

    store: StoreConnection
    """In autocommit mode; its session must not be shared by a transaction pooler."""
    keep: str | None = None
    """`newest` or `oldest`; None for what an adoption in progress has stored, else the newest."""
    idle_timeout_seconds: int
    """Stored when the adoption begins: the idle timeout of rows that the application inserts."""
    stop_event: StopEvent = field(default_factory=StopEvent)

    @property
    def connection(self) -> Connection[Any]:
        """The driver's own connection."""
        driver: Connection[Any] = self.store.driver
        return driver

    def read_state(self) -> AdoptionState:
        """Return the state of the adoption.

        Raises:
            AdoptionError: there is no table conversations.
            psycopg.Error: the database refused, or the connection is lost.
        """
        return read_state(self.connection, keep=self.keep, idle_timeout_seconds=self.idle_timeout_seconds)

    def dry_run(self) -> tuple[list[Step], list[Duplicate]]:
        """Return the remaining steps, and the conversations that will end as duplicates; nothing is changed.

        Raises:
            AdoptionError: the table cannot be adopted.
            InvalidInputError: `keep` differs from that of the adoption in progress.
            psycopg.Error: the database refused, or the connection is lost.
        """
        check_adoptable(self.store)
        state = self.read_state()
        self._check_keep(state)
        duplicates = self._duplicates(state)
        return plan(state, duplicates), duplicates

    def run(self, progress: ProgressReporter) -> int:
        """Execute the remaining steps; return their number, 0 where the adoption is complete.

        Raises:
            AdoptionError: the table cannot be adopted, it stayed locked, or another adoption runs.
            InvalidInputError: `keep` differs from that of the adoption in progress.
            Interrupted: a stop signal came; the completed steps are kept.
            psycopg.Error: the database refused, or the connection is lost.
        """
        require_own_session(self.connection)  # which keeps the settings and the advisory lock
        done: set[str] = set()
        with exclusive_session(self.connection, self.wait, progress):
            # Under the lock: the half-finished work of another adoption would fail the checks.
            check_adoptable(self.store)
            state = self.read_state()
            self._check_keep(state)
            if state.record is not None and state.record.completed_at is None:
                progress.message(f"resuming the adoption that began at {state.record.began_at:%Y-%m-%d %H:%M:%S %Z}")
            while step := next((step for step in plan(state) if step.key not in done), None):
                self.wait(0)
                try:
                    with progress.step(step):
                        self._execute(step, state, progress)
                except UniqueViolation:
                    if step.kind != steps.UNIQUE:
                        raise
                    # A transaction that began before the triggers were replaced has opened a duplicate.
                    progress.message("the unique index failed on a new duplicate: ending duplicates again")
                    done.discard(steps.DUPLICATES)
                else:
                    done.add(step.key)
                state = self.read_state()
        return len(done)

    def ended_duplicates(self) -> list[Duplicate]:
        """Return the duplicates that this run and earlier ones have ended.

        Raises:
            AdoptionError: there is no table conversations.
            psycopg.Error: the database refused, or the connection is lost.
        """
        state = self.read_state()
        return ended_duplicates(self.connection, state.names) if state.record else []

    def wait(self, seconds: float) -> None:
        """Wait so many seconds; with 0, only check for a stop signal.

        Raises:
            Interrupted: a stop signal came.
        """
        if self.stop_event.wait(seconds) if seconds else self.stop_event.is_set():
            raise Interrupted

    # --- inside -------------------------------------------------------------------------------------------------

    def _duplicates(self, state: AdoptionState) -> list[Duplicate]:
        if state.has_unique_index:
            return []
        if state.record is not None and state.is_backfilled:
            return find_duplicates(self.connection, state.names, state.effective_record.keep)
        has_channel = "channel" in state.table.columns
        return preview_duplicates(self.connection, state.names, state.effective_record.keep, has_channel=has_channel)

    def _check_keep(self, state: AdoptionState) -> None:
        if self.keep not in (None, state.effective_record.keep):
            raise InvalidInputError(
                f"the adoption in progress keeps the {state.effective_record.keep} of a pair's open conversations; "
                f"nothing was changed: run it with --keep {state.effective_record.keep}, or without --keep"
            )

    def _execute(self, step: Step, state: AdoptionState, progress: ProgressReporter) -> None:
        if step.kind in (steps.BACKFILL, steps.DUPLICATES):
            with self.interruptible(STOP_GRACE_SECONDS), _explain_refusals(state.names.conversations):
                self._write_rows(step, state, progress)
        elif step.is_transaction:
            with self.interruptible(STOP_GRACE_SECONDS):
                table = state.names.conversations
                with_lock_retries(self.connection, table, step.statements, wait=self.wait, message=progress.message)
        else:
            for statement in step.statements:
                self.run_long(statement, progress)

    def _write_rows(self, step: Step, state: AdoptionState, progress: ProgressReporter) -> None:
        if step.kind == steps.BACKFILL:
            backfill(self.connection, state.names, wait=self.wait, on_batch=progress.advance)
            return
        end_duplicates(
            self.connection,
            state.names,
            state.effective_record.keep,
            state.table.columns["conv_id"].type,
            wait=self.wait,
            on_batch=progress.advance,
        )

    def run_long(self, statement: str, progress: ProgressReporter) -> None:
        """Execute a statement outside a transaction, without a time limit; a stop signal cancels it.

        Raises:
            Interrupted: a stop signal came.
            psycopg.Error: the database refused, or the connection is lost.
        """
        with report_progress(self.connection, progress.advance, progress.message), self.interruptible():
            self.connection.execute(statement.encode())

    @contextmanager
    def interruptible(self, grace_seconds: float = 0.0) -> Iterator[None]:
        """Interrupt the body so many seconds after a stop signal, and cancel its statement in the database.

        Raises:
            Interrupted: a stop signal came.
        """
        try:
            with self.stop_event.interruptible(grace_seconds):
                yield
        except Interrupted:
            if _is_active(self.connection):
                with suppress(Error):
                    self.connection.cancel_safe(timeout=STOP_GRACE_SECONDS)
            raise


@contextmanager
def _explain_refusals(table: str) -> Iterator[None]:
    """Raise an error with a hint where the application's constraint or trigger refuses an update of an existing row."""
    try:
        yield
    except (IntegrityError, RaiseException) as error:
        reason = mask_addresses(error.diag.message_primary or type(error).__name__)
        raise AdoptionError(
            f"a constraint or trigger of the application refuses a row of {table} that exists already ({reason}): "
            "correct the row or the rule, then run it again to resume; or `lapse unadopt`"
        ) from None


@contextmanager
def exclusive_session(
    connection: Connection[Any], wait: Callable[[float], object], progress: ProgressReporter
) -> Iterator[None]:
    """Hold the advisory lock of adoptions, in a session without timeouts.

    Args:
        connection: in autocommit mode.
        wait: waits so many seconds; may raise to give up.
        progress: receives a message while another adoption holds the lock.

    Raises:
        AdoptionError: another adoption held the lock for `LOCK_WAIT_SECONDS`.
        psycopg.Error: the database refused, or the connection is lost.
    """
    for setting, value in (
        ("application_name", APPLICATION_NAME),
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("transaction_timeout", "0"),
        ("default_transaction_isolation", "read committed"),
    ):
        connection.execute(_SET, [value, setting])
    give_up_at = time.monotonic() + LOCK_WAIT_SECONDS
    # Polled: CREATE INDEX CONCURRENTLY would wait for a session that waits in the database.
    while not _value(connection, "SELECT pg_try_advisory_lock(%s)"):
        other = f"another adoption, or the statement of a killed one (pid {_value(connection, _LOCK_HOLDER)})"
        progress.message(f"waiting for the end of {other}")
        if time.monotonic() > give_up_at:
            raise AdoptionError(
                f"{other} has been running for {LOCK_WAIT_SECONDS / 60:.0f} minutes: wait for its end, then run this "
                "again"
            )
        wait(0.5)
    try:
        yield
    finally:
        # The pool closes a lost connection or one with an active statement, which releases the lock.
        if not (connection.closed or connection.broken or _is_active(connection)):
            _value(connection, "SELECT pg_advisory_unlock(%s)")


def _is_active(connection: Connection[Any]) -> bool:
    return connection.info.transaction_status == TransactionStatus.ACTIVE


def _value(connection: Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode(), [_ADVISORY_LOCK]).fetchone()
    return row[0] if row else None
