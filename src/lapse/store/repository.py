"""ConversationRepository: conversations in and out of the database, one method per question or command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from lapse.addresses import masked
from lapse.errors import ConversationExpiredError, ConversationRefusedError, InvalidInputError, InvalidTransitionError
from lapse.lifecycle import ConversationStatus, Sender
from lapse.models import AnyId, Conversation, ConversationEvent, NextDeadlines
from lapse.store import statements, sweep_statements
from lapse.store.connection import Connection, Row, Rows
from lapse.store.database import Database
from lapse.store.id_generation import new_conv_id
from lapse.store.purge import Purger
from lapse.store.rows import conversation_of, event_of, later
from lapse.store.sweeps import Sweeper
from lapse.store.transitions import (
    NewConversation,
    apply_message,
    has_expired,
    key_of,
    last_event_is,
    lock_by_id,
    lock_live,
    make_transition,
    until_found,
)
from lapse.store.types import deadline_of

EXACT_UP_TO = {"postgresql": 10_000, "sqlite": 100_000}
"""Active conversations that are counted one by one: some milliseconds."""


class OpenPairs(set[tuple[AnyId, str, str]]):
    """Pairs that had an open conversation when this process last saw them: a guess at which statement to try first."""

    MOST = 100_000
    """Some 20 MB."""

    def add(self, pair: tuple[AnyId, str, str]) -> None:
        """Remember a pair; when there are too many, all others are forgotten."""
        if len(self) >= self.MOST:
            self.clear()
        super().add(pair)


class ConversationRepository:
    """The store of one database. Addresses come in normalised and settings resolved: `service` does both."""

    def __init__(self, database: Database) -> None:
        """Use this database; its schema must be there."""
        self.database = database
        self.sweeper = Sweeper(database)
        self._open_pairs = OpenPairs()
        self.purger = Purger(database)
        dialect, now = database.dialect, database.now_expression
        # By whether the tables are distributed: Citus takes `now()` in an INSERT only.
        self._activity = {False: {sender: statements.activity(now, sender) for sender in Sender}, True: {}}
        self._message = {sender: statements.message(dialect, now, sender) for sender in Sender}
        self._open = statements.open_conversation(dialect, statements.BOUND_NOW)
        self._next_deadlines = statements.next_deadlines(dialect, now)
        self._find_idle = sweep_statements.find_idle(now)
        self._find_expired = sweep_statements.find_expired(now)
        self._count_due = sweep_statements.count_due(now)
        self._message_at = {sender: statements.message(dialect, statements.BOUND_NOW, sender) for sender in Sender}

    # --- commands -----------------------------------------------------------------------------------------------

    def record_message(self, new: NewConversation) -> Conversation:
        """Note a message: one statement where it means no transition, else a transaction with the transition."""
        pair, now = (new.owner_id, new.channel, new.session_key), self.database.now_parameters
        is_known = pair in self._open_pairs
        activity = self._activity[self.database.is_distributed()].get(new.sender) if is_known else None

        def work(connection: Connection) -> Row | None:
            if activity is not None:
                row = connection.execute(activity, new.pair | now).one_or_none()
                if row is not None:
                    return row
            return connection.execute(self._message[new.sender], self._with_id(new, connection) | now).one_or_none()

        recorded = self._opened_once(new, lambda: self.database.autocommit(work) or self._record_transition(new))
        self._open_pairs.add(pair)
        return recorded

    def open_conversation(self, new: NewConversation) -> tuple[Conversation, bool]:
        """Return the pair's live conversation, and whether it is the new one."""

        def work(connection: Connection) -> Row | None:
            live, now = lock_live(self.database, connection, new)
            return live or connection.execute(self._open, self._with_id(new, connection) | {"now": now}).one_or_none()

        found = self._opened_once(new, lambda: until_found(lambda: self.database.transaction(work)))
        # By its id, so that a repeat after a lost COMMIT still knows its own.
        return found, found.conv_id == new.conv_id

    def close(
        self,
        conv_id: AnyId,
        owner_id: AnyId | None,
        status: ConversationStatus,
        reason: str | None,
        actor: str | None,
    ) -> Conversation:
        """End a conversation with this status.

        Raises:
            ConversationNotFoundError: there is none.
            InvalidTransitionError: it is closed already; nothing was changed.
        """
        attempts = 0

        def work(connection: Connection) -> Row:
            nonlocal attempts
            attempts += 1
            row = lock_by_id(connection, conv_id, owner_id)
            now = self.database.read_clock(connection)
            try:
                return make_transition(connection, row, status, at=now, reason=reason, actor=actor)
            except InvalidTransitionError:
                # A repeat after a lost COMMIT: the end that is there is the one asked for.
                if attempts > 1 and row.status == status and last_event_is(connection, row, reason, actor):
                    return row
                raise

        return conversation_of(self.database.transaction(work))

    def extend(
        self, conv_id: AnyId, owner_id: AnyId | None, minutes: float | None, until: datetime | None
    ) -> Conversation:
        """Move `expires_at` by minutes, or to `until`.

        Raises:
            ConversationNotFoundError: there is none.
            InvalidTransitionError: it is closed.
            ConversationExpiredError: its expiry has passed.
        """
        target: datetime | None = until  # found once: a repeat after a lost COMMIT must not add the minutes again

        def work(connection: Connection) -> Row:
            nonlocal target
            row = lock_by_id(connection, conv_id, owner_id)
            if row.status not in ConversationStatus.open_statuses():
                raise InvalidTransitionError(
                    row.status,
                    row.status,
                    f"conversation {masked(conv_id)} is not open, but {masked(row.status)}: it cannot be extended",
                )
            now = self.database.read_clock(connection)
            if has_expired(row, now):
                raise ConversationExpiredError(
                    f"conversation {masked(conv_id)} expired at {row.expires_at.isoformat()}: "
                    "a later message opens a new one"
                )
            expires_at = row.expires_at or now  # none in an adopted table: one begins here
            if until is not None and until < expires_at:
                raise InvalidInputError(f"conversation {masked(conv_id)} expires later than that already: {expires_at}")
            target = target or later(expires_at, timedelta(minutes=minutes or 0))
            return connection.execute(
                statements.SET_EXPIRY, key_of(row) | {"new_expires_at": max(target, expires_at)}
            ).one()

        return conversation_of(self.database.transaction(work))

    # --- questions ----------------------------------------------------------------------------------------------

    def get_conversation_by_id(self, conv_id: AnyId, owner_id: AnyId | None = None) -> Conversation | None:
        """Return the conversation or None; with `owner_id` a distributed database asks one node only."""
        statement = statements.BY_ID if owner_id is None else statements.BY_OWNER_AND_ID
        found = self._rows(statement, {"of_conv_id": conv_id, "of_owner_id": owner_id})
        return conversation_of(found[0]) if found else None

    def get_active_conversations(self, owner_id: AnyId, limit: int) -> list[Conversation]:
        """Return an owner's active conversations, the latest activity first."""
        return self._conversations(statements.ACTIVE_OF_OWNER, {"of_owner_id": owner_id, "limit": limit})

    def get_history(self, owner_id: AnyId, channel: str, session_key: str, limit: int) -> list[Conversation]:
        """Return all conversations of a pair, the latest first."""
        parameters = {
            "of_owner_id": owner_id,
            "of_channel": channel,
            "of_session_key": session_key,
            "limit": limit,
        }
        return self._conversations(statements.HISTORY_OF_PAIR, parameters)

    def get_events(self, conv_id: AnyId, owner_id: AnyId) -> list[ConversationEvent]:
        """Return a conversation's transitions, the first one first."""
        rows = self._rows(statements.EVENTS_OF_CONVERSATION, {"of_conv_id": conv_id, "of_owner_id": owner_id})
        return [event_of(row) for row in rows]

    def find_idle_conversations(self, idle_timeout: timedelta, limit: int = 100) -> list[Conversation]:
        """Return conversations that are idle now, the longest idle first; nothing is locked or changed."""
        seconds = round(idle_timeout.total_seconds())
        return self._conversations(self._find_idle, self._now({"idle_timeout": seconds, "limit": limit}))

    def find_expired_conversations(self, limit: int = 100) -> list[Conversation]:
        """Return open conversations that are past their expiry, the longest first; nothing is locked or changed."""
        return self._conversations(self._find_expired, self._now({"limit": limit}))

    def next_deadlines(
        self, without_idle: Sequence[AnyId] = (), without_expired: Sequence[AnyId] = (), *, retry: bool = True
    ) -> NextDeadlines:
        """Return when the next sweep has work, not counting these: looks at the ends of three indexes."""
        parameters = {"without_idle": list(without_idle), "without_expired": list(without_expired)}
        row = self._rows(self._next_deadlines, self._now(parameters), retry=retry).one()
        return NextDeadlines(
            idle=deadline_of(row.idle, row.now),
            expired=deadline_of(row.expired, row.now),
            longest_idle_timeout_seconds=row.armed_seconds,
            now=row.now,
        )

    def count_open_by_status(self) -> dict[str, int]:
        """Return how many conversations are in each open status; zeros included."""
        found = {row.status: row.conversations for row in self._rows(statements.COUNT_OPEN_BY_STATUS)}
        return {status.value: found.get(status.value, 0) for status in ConversationStatus.open_statuses()}

    def count_active(self) -> int:
        """Return about how many conversations are active, in a time that does not grow with them.

        Exact up to `EXACT_UP_TO`. Where there are more, PostgreSQL's own estimate, as old as its latest VACUUM or
        ANALYZE; without one (SQLite, or Citus, whose coordinator keeps none) that number and one: "more than".

        Raises:
            DatabaseError: the database refused, or cannot be reached.
        """
        limit = EXACT_UP_TO[self.database.dialect] + 1
        counted = int(self._rows(statements.COUNT_ACTIVE, {"limit": limit}, retry=False).one().conversations)
        if counted < limit or self.database.dialect != "postgresql":
            return counted
        return max(counted, int(self._rows(statements.ESTIMATE_ACTIVE, retry=False).one().conversations))

    def count_due(self, idle_timeout: timedelta) -> tuple[int, int]:
        """Return how many conversations are idle, and how many expired, at this moment."""
        seconds = round(idle_timeout.total_seconds())
        (row,) = self._rows(self._count_due, self._now({"idle_timeout": seconds}))
        return row.idle, row.expired

    def is_empty(self) -> bool:
        """Tell whether the database holds no conversation at all."""
        return not self._rows(statements.ANY_CONVERSATION)

    # --- inside -------------------------------------------------------------------------------------------------

    def _opened_once(self, new: NewConversation, work: Callable[[], Row]) -> Conversation:
        """Return what `work` finds or opens, or what it had opened before its answer was lost and has ended since.

        Raises:
            ConversationRefusedError: the database refused for another reason.
        """
        try:
            return conversation_of(work())
        except ConversationRefusedError:
            # The id is this call's own: whatever has it was opened by an earlier attempt.
            own = None if new.conv_id is None else self.get_conversation_by_id(new.conv_id, new.owner_id)
            if own is not None:
                return own
            if not self.database.layout().is_adopted:
                raise
        # Perhaps by a unique index of the application's, which ON CONFLICT does not go by: its row can be seen by now.
        return conversation_of(work())

    def _with_id(self, new: NewConversation, connection: Connection) -> dict[str, Any]:
        """Return the parameters of an insert; the conversation has an id from here on, if it had none."""
        if new.conv_id is None:
            new.conv_id = new_conv_id(self.database.layout(), connection)
        return new.parameters

    def _record_transition(self, new: NewConversation) -> Row:
        def work(connection: Connection) -> Row | None:
            live, now = lock_live(self.database, connection, new)
            if live is not None:
                return apply_message(connection, live, new, now)
            # Another message may open one first: then this one is activity of that, or tries again.
            statement = self._message_at[new.sender]
            return connection.execute(statement, self._with_id(new, connection) | {"now": now}).one_or_none()

        return until_found(lambda: self.database.transaction(work))

    def _rows(self, statement: Any, parameters: dict[str, Any] | None = None, *, retry: bool = True) -> Rows:
        return self.database.autocommit(
            lambda connection: connection.execute(statement, parameters), reads_only=True, retry=retry
        )

    def _conversations(self, statement: Any, parameters: dict[str, Any]) -> list[Conversation]:
        return [conversation_of(row) for row in self._rows(statement, parameters)]

    def _now(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return parameters | self.database.now_parameters
