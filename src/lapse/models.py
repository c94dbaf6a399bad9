"""What lapse hands out: frozen values, never live rows. Personal data stays out of their repr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from lapse.errors import DatabaseError
from lapse.lifecycle import ConversationStatus, EventType

AnyId = UUID | int | str
"""An id: in lapse's own tables a conversation's is a UUID and an owner's a whole number; an adopted table keeps its."""

MIN_DATETIME = datetime.min.replace(tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)
"""The last moment of the calendar."""


class UnreadableJson(Mapping[str, Any]):
    """Stands for a JSON object of the database that cannot be read, in the place of it: looking inside is the error.

    So a list of conversations comes, and a message is recorded, whatever one of them holds.
    """

    def __init__(self, reason: str) -> None:
        """`reason` is what follows on "the JSON"."""
        self.reason = reason

    def __getitem__(self, key: str) -> Any:
        """Raise.

        Raises:
            DatabaseError: always.
        """
        raise self._error()

    def __iter__(self) -> Iterator[str]:
        """Raise, as all that follows from it: `len`, `keys`, `get`, `dict`, `==`."""
        raise self._error()

    def __len__(self) -> int:
        """Raise."""
        raise self._error()

    def _error(self) -> DatabaseError:
        return DatabaseError(f"the JSON that the database holds here {self.reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One conversation between two addresses, as it was when it was read. All times are aware and UTC.

    In an adopted table a status may be one that lapse does not know, as text. Where the application left out
    `expires_at`, it is `NEVER`; other times that it left out are its other one, or 1970. Where `context` or `metadata`
    hold what cannot be read (written by others, say), looking into them raises `DatabaseError`.
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
    started_at: datetime
    updated_at: datetime
    last_inbound_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime
    idle_check_at: datetime
    idle_timeout_seconds: int
    context: dict[str, Any] = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)


def readable(conversation: Conversation) -> Conversation:
    """Return the conversation, all of which can be read.

    Raises:
        DatabaseError: its context or metadata cannot.
    """
    for name in ("context", "metadata"):
        value = getattr(conversation, name)
        if isinstance(value, UnreadableJson):
            raise DatabaseError(
                f"the database holds something in column {name} that lapse cannot read: it {value.reason}"
            )
    return conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationEvent:
    """One transition of a conversation: what the history shows and deliveries are made from."""

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
    """What one sweep (one batch, one transaction) did."""

    claimed: int = 0
    """Conversations that the batch took; fewer than its limit means that nothing due is left."""
    ended: int = 0
    """Conversations that made the transition."""
    rearmed: int = 0
    """Conversations that had activity meanwhile and will be looked at again later."""
    last_deadline: datetime | None = None
    """The latest deadline of the batch, where a drain goes on from; None where it may go on from the start."""
    lags_seconds: Sequence[float] = field(default=(), repr=False)
    """How long after its deadline each of the ended conversations ended, in no order; not of one whose
    deadline others wrote as no time."""

    @property
    def contended(self) -> int:
        """Return how many changed between claim and update; a later sweep sees them as they are then."""
        return self.claimed - self.ended - self.rearmed

    @property
    def changed_nothing(self) -> bool:
        """Tell whether conversations were taken, and every one of them was left as it was."""
        return 0 < self.claimed == self.contended


@dataclass(frozen=True, slots=True, kw_only=True)
class NextDeadlines:
    """The earliest moments at which each task has work, and the moment of asking."""

    due_at: Mapping[str, datetime | None] = field(hash=False)
    """By the name of the task; None where it has nothing to come."""
    now: datetime

    @property
    def earliest(self) -> datetime | None:
        """Return the earliest of them; None where nothing is to come."""
        return min((moment for moment in self.due_at.values() if moment), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeResult:
    """What a purge deleted, or would delete."""

    closed_before: datetime
    """Conversations that ended before this moment were meant."""
    conversations: int = 0
    events: int = 0
    oldest: datetime | None = None
    """When the first of these conversations ended; None where there are none."""
    newest: datetime | None = None
    """When the last of them ended."""
    is_complete: bool = True
    """False when a stop came before everything meant was done; what was deleted was deleted whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a worker's first cycle would end, at the moment `now`."""

    now: datetime
    is_before_adoption: bool
    """The table is an application's own still: duplicates are counted, which adopting ends first."""
    idle_minutes: float
    expiration_minutes: float | None
    """Counted from each conversation's start; None: its own `expires_at` says when it expires."""
    conversations: int
    by_status: Sequence[tuple[str, str, int]]
    """From this status to that one, so many; the most first."""
    by_age: Mapping[str, int]
    """By how long past its deadline, in words; the shortest first, zeros included."""
    by_owner: Sequence[tuple[str, int]]
    """The ten owners with most, as text."""
    owners: int
    """How many owners there are in all."""
    oldest: datetime | None
    """The earliest deadline; None where nothing is due."""
    newest: datetime | None
    histogram_begin: datetime
    """Later than `oldest` where the first column holds all that is older."""
    histogram_end: datetime
    histogram: Sequence[int]
    """How many have their deadline in each of the stretches of equal length in between; empty where nothing is due."""
