"""ConversationService: what an application calls. Addresses are normalised and settings resolved here."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from lapse.addresses import WHATSAPP, address_pair, masked, shown
from lapse.errors import ConversationAlreadyOpenError, ConversationNotFoundError, InvalidInputError
from lapse.json_objects import check_json_object
from lapse.lifecycle import Sender, parse_closed_status, parse_sender, require_utc
from lapse.models import AnyId, Conversation, ConversationEvent, NextDeadlines, readable
from lapse.settings import Settings, check_extension, idle_timeout_seconds, load_settings
from lapse.store import ConversationRepository, Database, ensure_schema
from lapse.store.database import Clock
from lapse.store.limits import limited
from lapse.store.transitions import NewConversation
from lapse.validation import check_id, check_limit, check_text


class ConversationService:
    """Conversations of one database. One instance serves any number of threads."""

    def __init__(
        self,
        database: Database | str | None = None,
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
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
        if isinstance(database, Database):
            self.database = database
        else:
            self.database = Database(self.settings.database_url if database is None else database, clock)
        self.conversation_repo = ConversationRepository(self.database)
        self.call_timeout_seconds = self.settings.call_timeout_seconds
        """How long a call may take; sweeps may take longer."""
        self._has_schema = False
        self._expiration_seconds = round(self.settings.expiration.total_seconds())
        self._idle_timeout_seconds = round(self.idle_timeout().total_seconds())

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
        """Note a message and return its conversation: opened, kept alive, answered or brought back by it.

        Args:
            owner_id: the tenant. A whole number, or whatever the application's own table has, when it was adopted.
            from_number: the address that the message comes from.
            to_number: the address that it goes to.
            channel: `whatsapp`, `sms`, `webchat`, ….
            sender: the side that wrote it: `user` (the customer), `agent`, `support` or `system`.
            user_id: the application's own id, kept when this message opens a conversation.
            context: a JSON object, kept when this message opens a conversation.
            metadata: a JSON object, kept when this message opens a conversation.

        Raises:
            InvalidInputError: an argument is not usable (`InvalidAddressError`, `SameAddressError`, …).
            SchemaError: the database has no schema that this lapse can use.
            DatabaseError: the database refused, or stayed out of reach.
        """
        new = self._new(owner_id, from_number, to_number, channel, sender, user_id, context, metadata)
        return self._repository.record_message(new)

    @limited
    def create_conversation(
        self,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str = WHATSAPP,
        user_id: AnyId | None = None,
        metadata: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        sender: str = Sender.USER,
    ) -> Conversation:
        """Open a conversation; arguments and errors as `record_message`.

        Raises:
            ConversationAlreadyOpenError: the pair has an open one, which was left as it is.
        """
        new = self._new(owner_id, from_number, to_number, channel, sender, user_id, context, metadata)
        conversation, created = self._repository.open_conversation(new)
        if not created:
            raise ConversationAlreadyOpenError(conversation.conv_id, masked(conversation.conv_id))
        return conversation

    @limited
    def get_or_create_conversation(
        self,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str = WHATSAPP,
        user_id: AnyId | None = None,
        metadata: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        sender: str = Sender.USER,
    ) -> Conversation:
        """Return the pair's open conversation, opening one where there is none. It does not count as activity.

        Arguments and errors are those of `record_message`.
        """
        new = self._new(owner_id, from_number, to_number, channel, sender, user_id, context, metadata)
        return self._repository.open_conversation(new)[0]

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
            InvalidInputError: the status is not a closed one, or the id is none.
            ConversationNotFoundError: there is no such conversation.
            InvalidTransitionError: it has ended already; nothing was changed.
        """
        closed, texts = parse_closed_status(status), (check_text("reason", reason), check_text("actor", actor))
        return self._repository.close(*self._key(conv_id, owner_id), closed, *texts)

    @limited
    def extend_expiration(
        self,
        conv_id: AnyId,
        minutes: float | None = None,
        *,
        until: datetime | None = None,
        owner_id: AnyId | None = None,
    ) -> Conversation:
        """Move a conversation's expiry later: by `minutes` (default: the expiration setting), or to `until`.

        Raises:
            InvalidInputError: minutes are not positive, or `until` is not later than the present expiry.
            ConversationNotFoundError: there is no such conversation.
            InvalidTransitionError: it has ended.
            ConversationExpiredError: its expiry has passed.
        """
        if until is not None and minutes is not None:
            raise InvalidInputError("extend_expiration takes minutes or until, not both")
        until = None if until is None else require_utc(until)
        if until is None:
            minutes = check_extension(self.settings.expiration_minutes if minutes is None else minutes)
        return self._repository.extend(*self._key(conv_id, owner_id), minutes, until)

    @limited
    def get_conversation_by_id(self, conv_id: AnyId, *, owner_id: AnyId | None = None) -> Conversation:
        """Return a conversation.

        Raises:
            InvalidInputError: the id is none.
            ConversationNotFoundError: there is no such conversation.
            DatabaseError: its context or metadata cannot be read; or the database refused, or stayed out of reach.
        """
        return readable(self._find(conv_id, owner_id))

    @limited
    def get_conversation_events(self, conv_id: AnyId, *, owner_id: AnyId | None = None) -> list[ConversationEvent]:
        """Return a conversation's transitions, the first one first.

        Raises:
            InvalidInputError: the id is none.
            ConversationNotFoundError: there is no such conversation.
        """
        conversation = self._find(conv_id, owner_id)
        return self._repository.get_events(conversation.conv_id, conversation.owner_id)

    @limited
    def get_active_conversations(self, owner_id: AnyId, limit: int = 100) -> list[Conversation]:
        """Return an owner's active conversations (pending and progress), the latest activity first."""
        return self._repository.get_active_conversations(self._id("owner_id", owner_id), check_limit(limit))

    @limited
    def get_conversation_history(
        self, owner_id: AnyId, from_number: str, to_number: str, channel: str = WHATSAPP, limit: int = 100
    ) -> list[Conversation]:
        """Return all conversations of a pair of addresses, in either direction, the latest first."""
        pair, owner_id = address_pair(from_number, to_number, channel), self._id("owner_id", owner_id)
        return self._repository.get_history(owner_id, pair.channel, pair.session_key, check_limit(limit))

    @limited
    def find_idle_conversations(self, idle_minutes: float | None = None, limit: int = 100) -> list[Conversation]:
        """Return conversations that are idle now (default: for the idle timeout setting), the longest idle first."""
        return self._repository.find_idle_conversations(self.idle_timeout(idle_minutes), check_limit(limit))

    @limited
    def find_expired_conversations(self, limit: int = 100) -> list[Conversation]:
        """Return open conversations that are past their expiry, the longest first."""
        return self._repository.find_expired_conversations(check_limit(limit))

    def process_idle_conversations(self, idle_minutes: float | None = None, limit: int = 100) -> int:
        """Pause conversations that are idle: at most `limit`, the longest overdue first. Returns how many were paused.

        Any number of processes may do so at once; each conversation is paused once.
        """
        return self._repository.sweeper.pause_idle(self.idle_timeout(idle_minutes), check_limit(limit))

    def process_expired_conversations(self, limit: int = 100) -> int:
        """End conversations that are past their expiry: one batch of at most `limit`. Returns how many were ended.

        Any number of processes may do so at once; each conversation is ended once.
        """
        return self._repository.sweeper.expired().sweep(check_limit(limit), retry=True).ended

    @limited
    def next_deadlines(self, *, retry: bool = True) -> NextDeadlines:
        """Return when the next sweep has work, by the clock of the database."""
        return self._repository.next_deadlines(retry=retry)

    def idle_timeout(self, minutes: float | None = None) -> timedelta:
        """Return the idle timeout: of so many minutes, or the setting's.

        Raises:
            InvalidIdleTimeoutError: the minutes are not usable.
        """
        chosen = self.settings.idle_timeout_minutes if minutes is None else minutes
        return timedelta(seconds=idle_timeout_seconds(chosen))

    # --- inside -------------------------------------------------------------------------------------------------

    @property
    def _repository(self) -> ConversationRepository:
        if not self._has_schema:
            ensure_schema(self.database)
            self._has_schema = True
        return self.conversation_repo

    def _find(self, conv_id: AnyId, owner_id: AnyId | None) -> Conversation:
        conversation = self._repository.get_conversation_by_id(*self._key(conv_id, owner_id))
        if conversation is None:
            raise ConversationNotFoundError(f"there is no conversation {masked(conv_id)}")
        return conversation

    def _key(self, conv_id: AnyId, owner_id: AnyId | None) -> tuple[AnyId, AnyId | None]:
        return self._id("conv_id", conv_id), self._optional_id("owner_id", owner_id)

    def _id(self, name: str, value: AnyId) -> AnyId:
        """Return an id for this column, checked: of which type it is, the database says."""
        return check_id(self._repository.database.layout().kinds[name], name, value)

    def _optional_id(self, name: str, value: AnyId | None) -> AnyId | None:
        return None if value is None else self._id(name, value)

    def _new(
        self,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str,
        sender: str,
        user_id: AnyId | None,
        context: dict[str, Any] | None,
        metadata: dict[str, Any] | None,
    ) -> NewConversation:
        pair = address_pair(from_number, to_number, channel)
        return NewConversation(
            owner_id=self._id("owner_id", owner_id),
            channel=pair.channel,
            session_key=pair.session_key,
            from_number=pair.from_number,
            to_number=pair.to_number,
            sender=parse_sender(sender),
            expiration_seconds=self._expiration_seconds,
            idle_timeout_seconds=self._idle_timeout_seconds,
            user_id=self._optional_id("user_id", user_id),
            context=check_json_object("context", context),
            metadata=check_json_object("metadata", metadata),
        )
