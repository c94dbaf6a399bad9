"""The values that lapse returns: frozen, and independent of the database. Personal data stays out of their `repr`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

from lapse.errors import DatabaseError
from lapse.lifecycle import ConversationStatus, EventType, Sender

AnyId = UUID | int | str
"""An id: in lapse's own tables a conversation's is a UUID and an owner's a whole number; an adopted table keeps its."""

MIN_DATETIME = datetime.min.replace(tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)
"""The last moment of the calendar."""


def add_clamped(moment: datetime, duration: timedelta) -> datetime:
    """Return the moment so much later; what an application lets last for ever goes on doing so."""
    try:
        return moment + duration
    except OverflowError:
        return NEVER


class UnreadableJson(Mapping[str, Any]):
    """Stands for a JSON object that cannot be read, so that its conversation still can be.

    Raises:
        DatabaseError: on every access: `len`, `keys`, `get`, `dict`, `==` and so on.
    """

    def __init__(self, reason: str) -> None:
        """`reason` is what follows on "the JSON"."""
        self.reason = reason

    def __getitem__(self, key: str) -> Any:
        raise self._error()

    def __iter__(self) -> Iterator[str]:
        raise self._error()

    def __len__(self) -> int:
        raise self._error()

    def _error(self) -> DatabaseError:
        return DatabaseError(f"the JSON that the database holds here {self.reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation between two addresses, as it was when it was read. All times are aware and UTC.

    In an adopted table a status that lapse does not know is text, an `expires_at` that is null is `NEVER`, and another
    time that is null is the row's other one, or 1970. Access to a `context` or `metadata` that cannot be read raises
    `DatabaseError`.
    """

    conv_id: AnyId
    owner_id: AnyId
    channel: str
    session_key: str = field(repr=False)
    from_number: str = field(repr=False)
    to_number: str = field(repr=False)
    user_id: AnyId | None
    status: ConversationStatus
    version: int
    opened_by: Sender | None
    """The sender of the message that opened it; None: not known, as of conversations opened before schema 0005."""
    started_at: datetime
    updated_at: datetime
    """The latest activity."""
    last_inbound_at: datetime | None
    """The latest message of the customer to this business, in this conversation or one before it."""
    last_outbound_at: datetime | None
    """The latest message of your side in this conversation: an agent, support, or a bot."""
    first_answered_at: datetime | None
    """When an agent or support first answered; None: nobody has yet."""
    ended_at: datetime | None
    expires_at: datetime
    idle_check_at: datetime
    idle_timeout_seconds: int
    context: dict[str, Any] = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)

    @property
    def customer_address(self) -> str:
        """Return the customer's address, whoever spoke first; where that is not known, the customer is taken for it."""
        return self.from_number if self.opened_by in (None, Sender.USER) else self.to_number

    @property
    def business_address(self) -> str:
        """Return your side's address."""
        return self.to_number if self.opened_by in (None, Sender.USER) else self.from_number


# How to write each field. The frozen class's own way takes four times as long, a tenth of a message on SQLite.
_WRITERS = {one.name: getattr(Conversation, one.name).__set__ for one in fields(Conversation)}
_WRITES, _values_of = tuple(_WRITERS.values()), attrgetter(*_WRITERS)


def conversation_of(values: Iterable[Any]) -> Conversation:
    """Return the conversation whose fields have these values, in their order."""
    new = object.__new__(Conversation)
    for write, value in zip(_WRITES, values, strict=True):
        write(new, value)
    return new


def changed(conversation: Conversation, **values: Any) -> Conversation:
    """Return the conversation with other values: `dataclasses.replace` takes twice as long, a tenth of a replay."""
    new = conversation_of(_values_of(conversation))
    for name, value in values.items():
        _WRITERS[name](new, value)
    return new


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationEvent:
    """A transition of a conversation."""

    owner_id: AnyId
    conv_id: AnyId
    version: int
    type: EventType
    from_status: ConversationStatus
    to_status: ConversationStatus
    reason: str | None
    actor: str | None
    deadline: datetime | None
    occurred_at: datetime
    data: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """The result of a sweep: one batch in one transaction."""

    claimed: int = 0
    """Conversations that were claimed; fewer than the limit: nothing else is due."""
    ended: int = 0
    """Conversations that made the transition."""
    rearmed: int = 0
    """Conversations that had activity since, and got a later deadline."""
    last_deadline: datetime | None = None
    """The latest deadline of the batch, from which the next one continues; None: it may begin at the start."""
    lags_seconds: Sequence[float] = field(default=(), repr=False)
    """The time from the deadline to the end of each ended conversation with a finite deadline, in no order."""

    @property
    def contended(self) -> int:
        """Return how many changed between claim and update; a later sweep claims them again if they are due."""
        return self.claimed - self.ended - self.rearmed

    @property
    def changed_nothing(self) -> bool:
        """Return whether conversations were claimed, and all of them left unchanged."""
        return 0 < self.claimed == self.contended


@dataclass(frozen=True, slots=True, kw_only=True)
class NextDeadlines:
    """When each task next has work, as of `now`."""

    due_at: Mapping[str, datetime | None] = field(hash=False)
    """By name of the task; None: there is no deadline."""
    now: datetime

    @property
    def earliest(self) -> datetime | None:
        """Return the earliest deadline; None: there is none."""
        return min((moment for moment in self.due_at.values() if moment), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeResult:
    """What a purge deleted, or would delete."""

    closed_before: datetime
    """The purge is of conversations that ended before this moment."""
    conversations: int = 0
    events: int = 0
    oldest: datetime | None = None
    """When the first of these conversations ended; None: there are none."""
    newest: datetime | None = None
    """When the last of them ended."""
    is_complete: bool = True
    """False: it was stopped before the end. A conversation is deleted with all its events, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The conversations that a worker's first cycle would end, as of `now`."""

    now: datetime
    is_before_adoption: bool
    """The table is not adopted yet: duplicates of a pair, which adoption ends, are counted as well."""
    idle_minutes: float
    expiration_minutes: float | None
    """From the start of each conversation; None: it expires at its own `expires_at`."""
    conversations: int
    by_status: Sequence[tuple[str, str, int]]
    """Status before, status after, and number; in descending order of the number."""
    by_age: Mapping[str, int]
    """By the time since the deadline, as text, the shortest first; zeros included."""
    by_owner: Sequence[tuple[str, int]]
    """The ten owners with the most conversations, as text."""
    owners: int
    """The number of all owners."""
    oldest: datetime | None
    """The earliest deadline; None: nothing is due."""
    newest: datetime | None
    histogram_begin: datetime
    """Later than `oldest` if the first column includes everything that is older."""
    histogram_end: datetime
    histogram: Sequence[int]
    """The number of deadlines in each of several intervals of equal length; empty: nothing is due."""
