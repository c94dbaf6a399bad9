"""What must be in the database because a caller was told so: an account of the load, kept beside lapse.

Knows nothing of lapse's code: it compares the callers' notes with the two tables.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from lapse import Database
from tests.chaos.writer import EXTENSION_MINUTES
from tests.chaos.writers import FIRST_PAIR, Call
from tests.support.backlog import BUSINESS, customer
from tests.support.sql import run_sql

ALLOWED_ERRORS = ("DatabaseUnavailableError", "CallTimeoutError")
"""What may reach a caller, once the library's own retries, or the call's time, have run out."""
LEAST_PATIENCE_SECONDS = 3.1
"""What the pauses of a call's retries add up to, where chance adds nothing."""
SHOWN = 5


@dataclass(frozen=True)
class History:
    """Both tables, read once."""

    conversations: dict[str, Any] = field(repr=False)
    events: dict[str, list[Any]] = field(repr=False)

    @classmethod
    def of(cls, database: Database) -> History:
        """Read them."""
        rows = run_sql(
            database, "SELECT conv_id, session_key, status, version, updated_at, expires_at FROM conversations"
        )
        events: dict[str, list[Any]] = defaultdict(list)
        for event in run_sql(
            database,
            "SELECT conv_id, version, type, from_status, to_status, reason, actor, deadline, occurred_at"
            " FROM conversation_events ORDER BY version",
        ):
            events[str(event.conv_id)].append(event)
        return cls({str(row.conv_id): row for row in rows}, events)

    def moments(self, actor: str) -> list[datetime]:
        """Return when this actor made transitions, in order."""
        return sorted(
            moment(event.occurred_at) for events in self.events.values() for event in events if event.actor == actor
        )

    def count(self, *types: str) -> int:
        """Return how many events of these types there are."""
        return sum(event.type in types for events in self.events.values() for event in events)


def moment(value: datetime | str) -> datetime:
    """Return a time of either database, or of a writer's notes."""
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def check_calls(history: History, calls: Sequence[Call], idle_seconds: int) -> None:
    """Fail where the database and what callers were told differ."""
    acknowledged = [call for call in calls if call.is_acknowledged]
    problems = [
        *_lost_or_changed(history, acknowledged),
        *_paused_early(history, acknowledged, timedelta(seconds=idle_seconds)),
        *_closed_twice(history, calls),
        *_extended_twice(calls),
        *_unknown(history, calls),
    ]
    assert not problems, f"{len(problems)} problems, such as\n" + "\n".join(problems[:SHOWN])


def check_errors(calls: Iterable[Call], allowed: Sequence[str] = ALLOWED_ERRORS) -> int:
    """Fail where a caller got an error that the documents do not name; return how many got one that they do."""
    errors = [call for call in calls if call.error]
    wrong = [call for call in errors if call.error not in allowed]
    assert not wrong, wrong[:SHOWN]
    hasty = [call for call in errors if call.answer and call.answer["seconds"] < LEAST_PATIENCE_SECONDS]
    assert not hasty, hasty[:SHOWN]
    return len(errors)


def _lost_or_changed(history: History, acknowledged: Sequence[Call]) -> Iterable[str]:
    for call in acknowledged:
        answer = call.answer or {}
        row = history.conversations.get(answer["conv_id"])
        if row is None:
            yield f"acknowledged, but not there: {call}"
            continue
        events = history.events.get(answer["conv_id"], [])
        version = answer["version"]
        if version > len(events):
            yield f"a transition was lost: {call}"
        elif version and events[version - 1].to_status != answer["status"]:
            yield f"another transition has its number: {call}, {events[version - 1]}"
        elif not version and (events[0].from_status if events else row.status) != answer["status"]:
            yield f"it began otherwise: {call}"
        if moment(row.updated_at) < moment(answer["updated_at"]):
            yield f"activity was lost: {call}, {row}"
        if moment(row.expires_at) < moment(answer["expires_at"]):
            yield f"an extension was lost: {call}, {row}"


def _paused_early(history: History, acknowledged: Sequence[Call], idle: timedelta) -> Iterable[str]:
    activity: dict[str, list[datetime]] = defaultdict(list)
    for call in acknowledged:
        if call.did == "message" and call.answer:
            activity[call.answer["conv_id"]].append(moment(call.answer["updated_at"]))
    for conv_id, moments in activity.items():
        moments.sort()
        for event in history.events.get(conv_id, []):
            if event.type != "paused":
                continue
            paused_at = moment(event.occurred_at)
            place = bisect_left(moments, paused_at)
            if place and moments[place - 1] + idle >= paused_at:
                yield f"paused {paused_at - moments[place - 1]} after a message: {conv_id}, {event}"


def _closed_twice(history: History, calls: Iterable[Call]) -> Iterable[str]:
    """Each close is told apart by its reason: made once where the caller was told so, never where it was refused."""
    reasons = Counter(event.reason for events in history.events.values() for event in events)
    for call in calls:
        if call.answer and "reason" in call.answer:
            made, told = reasons[call.answer["reason"]], int(call.is_acknowledged)
            if made != told:
                yield f"made {made} times, and its caller was told {told}: {call}"


def _extended_twice(calls: Sequence[Call]) -> Iterable[str]:
    """Only a writer's own pairs: it alone extends them, one call after the other.

    An extension whose caller was told an error may have happened or not.
    """
    known: dict[int, tuple[str, datetime]] = {}
    for call in calls:
        if call.pair < FIRST_PAIR or call.answer is None or "conv_id" not in call.answer:
            known.pop(call.pair, None)
            continue
        conv_id, expires_at = call.answer["conv_id"], moment(call.answer["expires_at"])
        before = known.get(call.pair)
        if before and before[0] == conv_id:
            more = timedelta(minutes=EXTENSION_MINUTES if call.did == "extend" else 0)
            if expires_at != before[1] + more:
                yield f"the expiry moved by {expires_at - before[1]}: {call}"
        known[call.pair] = conv_id, expires_at


def _unknown(history: History, calls: Sequence[Call]) -> Iterable[str]:
    """A conversation that nobody was told of was opened twice, unless a call to its pair got no answer."""
    told = {call.answer["conv_id"] for call in calls if call.is_acknowledged and call.answer}
    unanswered = {call.pair for call in calls if call.answer is None or call.error}
    pairs = {"::".join(sorted([customer(call.pair), BUSINESS])): call.pair for call in calls}
    for conv_id, row in history.conversations.items():
        pair = pairs.get(row.session_key)
        if pair is not None and pair >= FIRST_PAIR and conv_id not in told and pair not in unanswered:
            yield f"nobody was told of {row}"
