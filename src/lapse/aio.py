"""AsyncConversationService: what an application calls from an event loop, such as FastAPI's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Self, TypeVar, TypeVarTuple, Unpack, overload

from lapse.addresses import address_pair
from lapse.checked_message import CheckedMessage
from lapse.errors import LapseError
from lapse.lifecycle import Sender
from lapse.messages import Message, MessageOptions, MessageResult, OpeningOptions, OpeningSender
from lapse.models import AnyId, Conversation, ConversationEvent, NextDeadlines
from lapse.service_base import ServiceBase, changes, closing
from lapse.settings import Settings
from lapse.store.async_database import AsyncDatabase
from lapse.store.async_group_commit import AsyncGroupCommit
from lapse.store.database import Clock
from lapse.store.limits import limited_async
from lapse.store.operations import Steps, conversations, due, sweeps
from lapse.store.operations import messages as operations
from lapse.store.statements import Statements
from lapse.validation import check_limit

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class AsyncConversationService(ServiceBase):
    """Conversations of one database, for the tasks of one event loop: a `ConversationService` to be awaited.

    A call whose task is cancelled is done or not done, never by half (of a sweep: each batch), and that is settled
    before `CancelledError` is raised: nothing is written afterwards, and a look-up tells which it is. Only where the
    server is silent, so that the call gives up after five seconds, that may be settled later.
    """

    def __init__(
        self,
        database: AsyncDatabase | str | None = None,
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Prepare the service; arguments and errors as `ConversationService`. `async with` closes it."""
        super().__init__(settings)
        if not isinstance(database, AsyncDatabase):
            database = AsyncDatabase(self.settings.database_url if database is None else database, clock)
        self.database = database
        self._groups = AsyncGroupCommit(database)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections to the database; await it once no other call is in progress."""
        await self._groups.close()
        await self.database.close()

    @limited_async
    async def record(self, message: Message) -> MessageResult:
        """Record a message, and return after the commit what became of it; together with others of the same moment."""
        return await self._groups.record(await self._checked(message))

    @overload
    async def record_message(
        self,
        /,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str | None = ...,
        sender: OpeningSender = ...,
        **options: Unpack[OpeningOptions],
    ) -> Conversation: ...

    @overload
    async def record_message(
        self,
        /,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str | None = ...,
        sender: str = ...,
        **options: Unpack[MessageOptions],
    ) -> Conversation | None: ...

    @limited_async
    async def record_message(
        self,
        /,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str | None = None,
        sender: str = Sender.USER,
        **options: Any,
    ) -> Conversation | None:
        """Record a message, given as the fields of `lapse.Message`, and return the conversation that it belongs to.

        None: there is none, and the message opens none.
        """
        message = Message(owner_id, from_number, to_number, channel, sender, **options)
        return (await self._groups.record(await self._checked(message))).conversation

    @limited_async
    async def record_messages(self, messages: Iterable[Message]) -> list[MessageResult | LapseError]:
        """Record messages together, up to 500 in a statement; those of one pair count in the order given.

        Returns for each, in order, what became of it, or its error, which fails no other. Where the database cannot be
        reached, or the call's time is up, all whose result is not known have that error.
        """
        await self._prepare()
        checked = self._check_each(messages, (await self.database.shape()).mapping.kinds)
        return await self.database.run(operations.record_list, checked, self._groups.known)

    @limited_async
    async def create_conversation(
        self,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str | None = None,
        sender: str = Sender.USER,
        **options: Unpack[OpeningOptions],
    ) -> Conversation:
        """Open a conversation, whoever the sender is; the arguments are fields of `lapse.Message`.

        Raises:
            ConversationAlreadyOpenError: the pair has an open one, which is left unchanged.
        """
        message = Message(owner_id, from_number, to_number, channel, sender, **options)
        return await self.database.run(operations.create_conversation, await self._checked(message))

    @limited_async
    async def get_or_create_conversation(
        self,
        owner_id: AnyId,
        from_number: str,
        to_number: str,
        channel: str | None = None,
        sender: str = Sender.USER,
        **options: Unpack[OpeningOptions],
    ) -> Conversation:
        """Return the pair's open conversation, or open one as `create_conversation` does; this is not activity."""
        message = Message(owner_id, from_number, to_number, channel, sender, **options)
        return await self.database.run(operations.get_or_create_conversation, await self._checked(message))

    @limited_async
    async def close_conversation(
        self,
        conv_id: AnyId,
        status: str,
        reason: str | None = None,
        actor: str | None = None,
        *,
        owner_id: AnyId | None = None,
        if_updated_at: datetime | None = None,
    ) -> Conversation:
        """End a conversation as `agent_closed`, `support_closed`, `user_closed`, `failed` or `expired`.

        Reason and actor, of at most 500 characters each, are for its event. With `if_updated_at`, which is `updated_at`
        as whoever closes it has read it, it is not closed if there was activity since.

        Raises:
            InvalidTransitionError: it has ended already; nothing was changed.
            ConversationChangedError: its `updated_at` is later than `if_updated_at`; nothing was changed.
        """
        how = closing(status, reason, actor, if_updated_at)
        return await self._write(conversations.close, conv_id, owner_id, *how)

    @limited_async
    async def update_conversation(
        self,
        conv_id: AnyId,
        *,
        user_id: AnyId | None = None,
        context: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        owner_id: AnyId | None = None,
    ) -> Conversation:
        """Change what the application keeps with a conversation, open or ended, and return it; this is not activity.

        `user_id` is set unless it is None. Keys of `context` and `metadata` are set in the stored objects, whose other
        keys stay; one whose value is None is removed. Objects and lists below them are replaced as a whole.

        Raises:
            DatabaseError: what is stored is no JSON object, too: nothing was changed.
        """
        objects = changes(context, metadata)
        return await self._write(conversations.update, conv_id, owner_id, user_id, *objects)

    @limited_async
    async def extend_expiration(
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
        by_or_until = self._extension(minutes, until)
        return await self._write(conversations.extend, conv_id, owner_id, *by_or_until)

    @limited_async
    async def get_conversation_by_id(self, conv_id: AnyId, *, owner_id: AnyId | None = None) -> Conversation:
        """Return a conversation; if its context or metadata cannot be read, that is a `DatabaseError` as well."""
        return await self._read(conversations.get, conv_id, owner_id)

    @limited_async
    async def get_conversation_events(
        self, conv_id: AnyId, *, owner_id: AnyId | None = None
    ) -> list[ConversationEvent]:
        """Return a conversation's transitions in their order."""
        return await self._read(conversations.get_events, conv_id, owner_id)

    @limited_async
    async def get_active_conversations(self, owner_id: AnyId, limit: int = 100) -> list[Conversation]:
        """Return an owner's active conversations (pending and progress), the latest activity first.

        What is past its expiry is not among them, whether or not a worker has ended it yet.
        """
        return await self._read(conversations.get_active, owner_id, check_limit(limit))

    @limited_async
    async def get_conversation_history(
        self, owner_id: AnyId, from_number: str, to_number: str, channel: str | None = None, limit: int = 100
    ) -> list[Conversation]:
        """Return all conversations of a pair of addresses, in either direction, the latest first."""
        pair = address_pair(from_number, to_number, channel)
        return await self._read(conversations.get_history, owner_id, pair.channel, pair.session_key, check_limit(limit))

    @limited_async
    async def find_idle_conversations(self, idle_minutes: float | None = None, limit: int = 100) -> list[Conversation]:
        """Return conversations without activity for `idle_minutes` (default: the setting), the longest idle first."""
        return await self._read(due.find_idle, self._idle_seconds(idle_minutes), check_limit(limit))

    @limited_async
    async def find_expired_conversations(self, limit: int = 100) -> list[Conversation]:
        """Return open conversations that are past their expiry, the earliest expiry first."""
        return await self._read(due.find_expired, check_limit(limit))

    async def process_idle_conversations(self, idle_minutes: float | None = None, limit: int = 100) -> int:
        """Pause up to `limit` idle conversations, and return their number. Concurrent calls never pause one twice.

        Conversations that the database refuses to end (a trigger, a constraint) do not keep it from the others: one
        call goes past up to 1,000 of them.

        Raises:
            DatabaseError: it refused one, and none was ended.
        """
        return await self._write(sweeps.pause_idle, self._idle_seconds(idle_minutes), check_limit(limit))

    async def process_expired_conversations(self, limit: int = 100) -> int:
        """End up to `limit` expired conversations, and return their number. Concurrent calls never end one twice.

        What the database refuses to end: as `process_idle_conversations`.
        """
        return await self._write(sweeps.end_expired, check_limit(limit))

    @limited_async
    async def next_deadlines(self, *, retry: bool = True) -> NextDeadlines:
        """Return when each task of a worker next has work, by the database's clock."""
        return await self._read(due.next_deadlines, self._idle_seconds(), {}, retry=retry)

    # --- inside -------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """Check the schema once; create it in a SQLite database that has none."""
        if not self._has_schema:
            await self.database.ensure_schema()
            self._has_schema = True

    async def _write(self, operation: Callable[[Statements, *Ts], Steps[T]], *arguments: *Ts) -> T:
        await self._prepare()
        return await self.database.run(operation, *arguments)

    async def _read(self, operation: Callable[[Statements, *Ts], Steps[T]], *arguments: *Ts, retry: bool = True) -> T:
        """Return what an operation reads; nothing is found in a SQLite database that has no schema yet."""
        if not self._has_schema:
            self._has_schema = await self.database.has_schema(retry=retry)
            if not self._has_schema:
                return self.database.blocking.run_without_tables(operation, *arguments)
        return await self.database.run(operation, *arguments, reads_only=True, retry=retry)

    async def _checked(self, message: Message) -> CheckedMessage:
        """Return a message with its fields checked, by the types of ids that the database has."""
        await self._prepare()
        return self._check(message, (await self.database.shape()).mapping.kinds)
