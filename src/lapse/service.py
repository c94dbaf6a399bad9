"""ConversationService: what an application calls. Addresses are normalised and settings resolved here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple

from lapse.addresses import WHATSAPP, address_pair, masked, shown
from lapse.errors import (
    ConversationAlreadyOpenError,
    ConversationNotFoundError,
    DatabaseError,
    InvalidInputError,
    SchemaMissingError,
)
from lapse.lifecycle import Sender, parse_closed_status, require_utc, whole_seconds
from lapse.messages import Message
from lapse.models import AnyId, Conversation, ConversationEvent, NextDeadlines, UnreadableJson
from lapse.settings import Settings, idle_timeout_seconds, load_settings
from lapse.store import ConversationRepository, Database, check_schema, ensure_schema
from lapse.store.database import Clock
from lapse.store.limits import limited
from lapse.store.operations import Steps, conversations, due, messages, sweeps
from lapse.store.operations.messages import NewConversation, OpenPairs
from lapse.store.statements import Statements
from lapse.validation import check_extension, check_id, check_limit, check_text

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ConversationService:
    """Conversations of one database. One instance serves any number of threads.

    In addition to the errors that its docstring names, each method raises `InvalidInputError` (`InvalidAddressError`,
    `SameAddressError`, …) if an argument is not usable, `ConversationNotFoundError` if there is no conversation with
    its `conv_id`, `SchemaError` if the database does not have the schema of this version, and `DatabaseError` if the
    database refuses or cannot be reached.
    """

    def __init__(
        self, database: Database | str | None = None, *, settings: Settings | None = None, clock: Clock | None = None
    ) -> None:
        """Prepare the service; the database is first reached by the first call.

        Args:
            database: a URL or a `Database`; default is the setting `DATABASE_URL`.
            settings: default is the environment and `.env`.
            clock: returns aware datetimes in place of the database's clock; for tests and replay.

        Raises:
            SettingsError: a setting, or the URL, is not usable; InvalidInputError: another argument is not.
        """
        if settings is not None and not isinstance(settings, Settings):
            raise InvalidInputError(f"settings must be a Settings, not {shown(settings)}")
        self.settings = load_settings() if settings is None else settings
        if not isinstance(database, Database):
            database = Database(self.settings.database_url if database is None else database, clock)
        self.database = database
        self.conversation_repo = ConversationRepository(self.database)
        self.call_timeout_seconds = self.settings.call_timeout_seconds
        """How long a call may take; sweeps may take longer."""
        self._has_schema = False
        self._open_pairs = OpenPairs()
        self._expiration_seconds = whole_seconds(self.settings.expiration)
        self._idle_timeout_seconds = self._idle_seconds()

    def close(self) -> None:
        """Close the connections to the database."""
        self.database.close()

    @limited
    def record_message(
        self,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str = WHATSAPP,
        sender: str = Sender.USER,
        *,
        user_id: AnyId | None = None,
        context: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Conversation:
        """Record a message, and return the conversation that it opens, keeps active, answers or reactivates.

        The arguments are described at `lapse.Message`.
        """
        message = Message(
            owner_id, from_number, to_number, channel, sender, user_id=user_id, context=context, metadata=metadata
        )
        new = self._new(message)
        pair = (new.owner_id, new.pair.channel, new.pair.session_key)
        conversation = self.database.run(messages.record_message, new, pair in self._open_pairs)
        self._open_pairs.add(pair)
        return conversation

    @limited
    def create_conversation(
        self,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str = WHATSAPP,
        sender: str = Sender.USER,
        *,
        user_id: AnyId | None = None,
        context: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Conversation:
        """Open a conversation; arguments as `record_message`.

        Raises:
            ConversationAlreadyOpenError: the pair has an open one, which is left unchanged.
        """
        message = Message(
            owner_id, from_number, to_number, channel, sender, user_id=user_id, context=context, metadata=metadata
        )
        conversation, is_new = self.database.run(messages.open_conversation, self._new(message))
        if not is_new:
            raise ConversationAlreadyOpenError(conversation.conv_id, masked(conversation.conv_id))
        return conversation

    @limited
    def get_or_create_conversation(
        self,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str = WHATSAPP,
        sender: str = Sender.USER,
        *,
        user_id: AnyId | None = None,
        context: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Conversation:
        """Return the pair's open conversation, or open one; this is not activity. Arguments as `record_message`."""
        message = Message(
            owner_id, from_number, to_number, channel, sender, user_id=user_id, context=context, metadata=metadata
        )
        return self.database.run(messages.open_conversation, self._new(message))[0]

    @limited
    def close_conversation(
        self,
        conv_id: AnyId,
        status: str,
        reason: str | None = None,
        actor: str | None = None,
        *,
        owner_id: AnyId | None = None,
    ) -> Conversation:
        """End a conversation as `agent_closed`, `support_closed`, `user_closed`, `failed` or `expired`.

        Raises:
            InvalidTransitionError: it has ended already; nothing was changed.
        """
        closed, texts = parse_closed_status(status), (check_text("reason", reason), check_text("actor", actor))
        self._prepare()
        return self.database.run(conversations.close, *self._key(conv_id, owner_id), closed, *texts)

    @limited
    def extend_expiration(
        self,
        conv_id: AnyId,
        minutes: float | None = None,
        *,
        until: datetime | None = None,
        owner_id: AnyId | None = None,
    ) -> Conversation:
        """Move a conversation's expiry later: by `minutes` (default: the expiration setting), or to a later `until`.

        Raises:
            InvalidTransitionError: it has ended.
            ConversationExpiredError: its expiry has passed.
        """
        if until is not None and minutes is not None:
            raise InvalidInputError("extend_expiration takes minutes or until, not both")
        until = None if until is None else require_utc(until)
        if until is None:
            minutes = check_extension(self.settings.expiration_minutes if minutes is None else minutes)
        self._prepare()
        return self.database.run(conversations.extend, *self._key(conv_id, owner_id), minutes, until)

    @limited
    def get_conversation_by_id(self, conv_id: AnyId, *, owner_id: AnyId | None = None) -> Conversation:
        """Return a conversation; if its context or metadata cannot be read, that is a `DatabaseError` as well."""
        conversation = self._look_up(conversations.get_by_id, *self._key(conv_id, owner_id), default=None)
        if conversation is None:
            raise _not_found(conv_id)
        for name in ("context", "metadata"):
            if isinstance(value := getattr(conversation, name), UnreadableJson):
                raise DatabaseError(
                    f"the database holds something in column {name} that lapse cannot read: it {value.reason}"
                )
        return conversation

    @limited
    def get_conversation_events(self, conv_id: AnyId, *, owner_id: AnyId | None = None) -> list[ConversationEvent]:
        """Return a conversation's transitions in their order."""
        events = self._look_up(conversations.get_events, *self._key(conv_id, owner_id), default=None)
        if events is None:
            raise _not_found(conv_id)
        return events

    @limited
    def get_active_conversations(self, owner_id: AnyId, limit: int = 100) -> list[Conversation]:
        """Return an owner's active conversations (pending and progress), the latest activity first."""
        owner_id = self._id("owner_id", owner_id)
        return self._look_up(conversations.get_active, owner_id, check_limit(limit), default=[])

    @limited
    def get_conversation_history(
        self, owner_id: AnyId, from_number: str, to_number: str, channel: str = WHATSAPP, limit: int = 100
    ) -> list[Conversation]:
        """Return all conversations of a pair of addresses, in either direction, the latest first."""
        pair, owner_id = address_pair(from_number, to_number, channel), self._id("owner_id", owner_id)
        arguments = (owner_id, pair.channel, pair.session_key, check_limit(limit))
        return self._look_up(conversations.get_history, *arguments, default=[])

    @limited
    def find_idle_conversations(self, idle_minutes: float | None = None, limit: int = 100) -> list[Conversation]:
        """Return conversations without activity for `idle_minutes` (default: the setting), the longest idle first."""
        return self._look_up(due.find_idle, self._idle_seconds(idle_minutes), check_limit(limit), default=[])

    @limited
    def find_expired_conversations(self, limit: int = 100) -> list[Conversation]:
        """Return open conversations that are past their expiry, the earliest expiry first."""
        return self._look_up(due.find_expired, check_limit(limit), default=[])

    def process_idle_conversations(self, idle_minutes: float | None = None, limit: int = 100) -> int:
        """Pause up to `limit` idle conversations, and return their number. Concurrent calls never pause one twice."""
        seconds, limit = self._idle_seconds(idle_minutes), check_limit(limit)
        self._prepare()
        return self.database.run(sweeps.pause_idle, seconds, limit)

    def process_expired_conversations(self, limit: int = 100) -> int:
        """End up to `limit` expired conversations, and return their number. Concurrent calls never end one twice."""
        limit = check_limit(limit)
        self._prepare()
        return self.database.run(sweeps.end_expired, limit)

    @limited
    def next_deadlines(self, *, retry: bool = True) -> NextDeadlines:
        """Return when each task of a worker next has work, by the database's clock."""
        nothing = NextDeadlines(due_at=dict.fromkeys(sweeps.TASKS), now=self.database.now())
        return self._look_up(due.next_deadlines, self._idle_seconds(), {}, default=nothing, retry=retry)

    def idle_timeout(self, minutes: float | None = None) -> timedelta:
        """Return the idle timeout of so many minutes, or of the setting, in whole seconds as it is stored."""
        return timedelta(seconds=self._idle_seconds(minutes))

    # --- inside -------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Check the schema once; create it in a SQLite database that has none."""
        if not self._has_schema:
            ensure_schema(self.database)
            self._has_schema = True

    def _look_up(
        self, operation: Callable[[Statements, *Ts], Steps[T]], *arguments: *Ts, default: T, retry: bool = True
    ) -> T:
        """Return what an operation reads, or `default` if a SQLite database has no schema yet."""
        if not self._has_schema:
            path = self.database.path
            try:
                if path is not None and not path.exists():
                    return default
                check_schema(self.database, retry=retry)
            except SchemaMissingError:
                if path is None:
                    raise
                return default
            self._has_schema = True
        return self.database.run(operation, *arguments, reads_only=True, retry=retry)

    def _idle_seconds(self, minutes: float | None = None) -> int:
        return idle_timeout_seconds(self.settings.idle_timeout_minutes if minutes is None else minutes)

    def _key(self, conv_id: AnyId, owner_id: AnyId | None) -> tuple[AnyId, AnyId | None]:
        return self._id("conv_id", conv_id), None if owner_id is None else self._id("owner_id", owner_id)

    def _id(self, name: str, value: AnyId) -> AnyId:
        """Return a checked id of the type that this column has in the database."""
        return check_id(self.database.shape().mapping.kinds[name], name, value)

    def _new(self, message: Message) -> NewConversation:
        """Return what a message would open, checked."""
        pair = address_pair(message.from_number, message.to_number, message.channel)
        self._prepare()
        kinds = self.database.shape().mapping.kinds
        return NewConversation.of(message, pair, kinds, self._expiration_seconds, self._idle_timeout_seconds)


def _not_found(conv_id: AnyId) -> ConversationNotFoundError:
    return ConversationNotFoundError(f"there is no conversation {masked(conv_id)}")
