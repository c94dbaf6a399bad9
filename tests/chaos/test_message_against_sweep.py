"""A message and a sweep come to the same conversation, in every order that their locks allow."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from lapse import Conversation, ConversationService, Database
from lapse.messages import OpeningSender
from tests.chaos.holding import PATIENCE_SECONDS, Hold, HoldingDatabase
from tests.chaos.ledger import History, moment
from tests.chaos.outcome import Outcome
from tests.chaos.scale import is_full, scaled
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.invariants import check_invariants
from tests.support.sql import run_sql, transaction
from tests.support.sweeps import sweep_expired, sweep_idle

SENDERS: list[OpeningSender] = ["user", "agent"]
T = TypeVar("T")
INTERLEAVINGS = scaled(small=300, full=10_000)
IDLE = timedelta(minutes=30)
SWEEPS = ("idle", "expired")
DUE = ("idle", "expired", "both", "expired while paused")


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """One interleaving: what is due, who writes, who comes first, and how long after each other they start."""

    number: int
    due: str
    status: str
    sender: OpeningSender
    order: str
    sweeps: tuple[str, str]
    head_start: float
    ahead: timedelta

    @classmethod
    def by_chance(cls, number: int, chance: random.Random) -> Meeting:
        """Draw one."""
        order = chance.choice(list(ORDERS))
        return cls(
            number=number,
            due=chance.choice(DUE),
            status=chance.choice(["pending", "progress"]),
            sender=chance.choice(SENDERS),
            order=order,
            sweeps=chance.choice([SWEEPS, SWEEPS[::-1]]),
            head_start=chance.uniform(-0.002, 0.002),
            # Around the very moment of the deadline, or long after it.
            ahead=timedelta(milliseconds=chance.uniform(-2, 6))
            if order == "at the deadline"
            else -timedelta(minutes=1),
        )

    @property
    def is_expired(self) -> bool:
        """Tell whether its expiry is what is due."""
        return self.due != "idle"


class Arena:
    """One conversation at a time, a message's connection, a sweep's, and one of somebody else's."""

    def __init__(self, url: str, pool: ThreadPoolExecutor) -> None:
        self.messages, self.sweeps, self.other = HoldingDatabase(url), HoldingDatabase(url), Database(url)
        self._writer, self._worker = ConversationService(self.messages), ConversationService(self.sweeps)
        self._pool = pool
        for service in (self._writer, self._worker):
            service.next_deadlines()  # schema and shape are asked for once, by none of the transactions that are held

    def close(self) -> None:
        """Close all connections."""
        for database in (self.messages, self.sweeps, self.other):
            database.close()

    def begin(self, meeting: Meeting) -> str:
        """Open the conversation, and return its id."""
        idle_ahead = {"expired": IDLE, "expired while paused": -timedelta(minutes=1)}.get(meeting.due, meeting.ahead)
        paused = meeting.due == "expired while paused"
        expires_in = meeting.ahead if meeting.is_expired and not paused else timedelta(days=1)
        numbers = range(meeting.number, meeting.number + 1)
        (conv_id,) = insert_conversations(
            self.other, numbers, silent_for=IDLE - idle_ahead, expires_in=expires_in, status=meeting.status
        )
        if paused:
            assert self._worker.process_idle_conversations() == 1
            earlier = f"now() + interval '{meeting.ahead / timedelta(milliseconds=1)} ms'"
            run_sql(self.other, f"UPDATE conversations SET expires_at = {earlier} WHERE conv_id = :id", id=conv_id)
        return str(conv_id)

    def message(self, meeting: Meeting) -> Conversation:
        """Write to the conversation."""
        pair = customer(meeting.number), BUSINESS
        addresses = pair if meeting.sender == "user" else pair[::-1]
        return self._writer.record_message(1, *addresses, "sms", meeting.sender)

    def sweep(self, kinds: tuple[str, ...] = SWEEPS) -> int:
        """Do what a worker's cycle does."""
        sweeps = {
            "idle": lambda: sweep_idle(self.sweeps, self._worker.idle_timeout(), 100),
            "expired": lambda: sweep_expired(self.sweeps, 100),
        }
        return sum(sweeps[kind]().ended for kind in kinds)

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Run it in a thread."""
        return self._pool.submit(work)

    @contextmanager
    def held(self, database: HoldingDatabase, number: int, work: Callable[[], T]) -> Iterator[Future[T]]:
        """Run it in a thread up to the COMMIT of its `number`th transaction; the end of the block lets it go on."""
        hold = database.hold = Hold(number)
        future = self.start(work)
        future.add_done_callback(lambda _: hold.give_up())
        try:
            hold.wait()
            yield future
        finally:
            database.hold = None
            hold.release()


# --- the orders ---------------------------------------------------------------------------------------------------


def message_first(arena: Arena, meeting: Meeting) -> Conversation:
    found = arena.message(meeting)
    arena.sweep(meeting.sweeps)
    return found


def sweep_first(arena: Arena, meeting: Meeting) -> Conversation:
    arena.sweep(meeting.sweeps)
    return arena.message(meeting)


def sweep_while_the_message_holds_its_lock(arena: Arena, meeting: Meeting) -> Conversation:
    # A message that means a transition takes two transactions.
    number = 1 if meeting.head_start < 0 else 2
    with arena.held(arena.messages, number, lambda: arena.message(meeting)) as message:
        arena.sweep(meeting.sweeps)
    return result_of(message)


def message_while_the_sweep_holds_its_lock(arena: Arena, meeting: Meeting) -> Conversation:
    place = {("idle", "expired"): (1, 2), ("expired", "idle"): (2, 1)}[meeting.sweeps]
    number = place[1] if meeting.is_expired else place[0]
    with arena.held(arena.sweeps, number, lambda: arena.sweep(meeting.sweeps)) as sweep:
        assert arena.sweeps.hold is not None
        assert arena.sweeps.hold.is_held
        message = arena.start(lambda: arena.message(meeting))
        time.sleep(abs(meeting.head_start))
    assert result_of(sweep) == 1
    return result_of(message)


def both_while_another_holds_the_lock(arena: Arena, meeting: Meeting) -> Conversation:
    with transaction(arena.other) as connection:
        pair = {"from_number": customer(meeting.number)}
        connection.execute(sa.text("SELECT FROM conversations WHERE from_number = :from_number FOR UPDATE"), pair)
        message = arena.start(lambda: arena.message(meeting))
        time.sleep(abs(meeting.head_start))
        sweep = arena.start(lambda: arena.sweep(meeting.sweeps))
    result_of(sweep)
    return result_of(message)


def at_the_same_moment(arena: Arena, meeting: Meeting) -> Conversation:
    def later(work: Callable[[], T], seconds: float) -> T:
        time.sleep(max(seconds, 0))
        return work()

    sweep = arena.start(lambda: later(lambda: arena.sweep(meeting.sweeps), meeting.head_start))
    message = arena.start(lambda: later(lambda: arena.message(meeting), -meeting.head_start))
    result_of(sweep)
    return result_of(message)


ORDERS: dict[str, Callable[[Arena, Meeting], Conversation]] = {
    "the message first": message_first,
    "the sweep first": sweep_first,
    "the message holds its lock": sweep_while_the_message_holds_its_lock,
    "the sweep holds its lock": message_while_the_sweep_holds_its_lock,
    "another holds the lock": both_while_another_holds_the_lock,
    "the same moment": at_the_same_moment,
    "at the deadline": at_the_same_moment,
}
MESSAGE_WINS = ("the message first", "the message holds its lock")
SWEEP_WINS = ("the sweep first", "the sweep holds its lock")


def result_of(future: Future[T]) -> T:
    return future.result(PATIENCE_SECONDS)


# --- what may come of it ------------------------------------------------------------------------------------------


def winner(meeting: Meeting, conv_id: str, answer: Conversation, history: History) -> str:
    """Return who came first, and fail where what happened is not what the one or the other would have led to."""
    events = history.events.get(conv_id, [])
    steps = [(event.type, event.actor) for event in events]
    if meeting.due == "expired while paused":
        assert steps.pop(0) == ("paused", "worker"), (meeting, events)
    if meeting.is_expired:
        found = _winner_of_expired(meeting, conv_id, answer, steps)
    else:
        found = _winner_of_idle(meeting, conv_id, answer, steps)
    assert found, (meeting, answer, events)
    for event in events:
        assert not (event.type == "paused" and moment(event.occurred_at) > answer.updated_at), (meeting, events)
    return found


def _winner_of_idle(meeting: Meeting, conv_id: str, answer: Conversation, steps: list[Any]) -> str | None:
    activated = [("activated", "agent")] if (meeting.status, meeting.sender) == ("pending", "agent") else []
    if str(answer.conv_id) != conv_id:
        return None
    if steps == activated:
        is_as_told = (answer.status, answer.version) == ("progress" if activated else meeting.status, len(activated))
        return "message" if is_as_told else None
    is_brought_back = steps == [("paused", "worker"), ("reactivated", meeting.sender)]
    status = "pending" if meeting.sender == "user" else "progress"  # nobody had answered before
    return "sweep" if is_brought_back and (answer.status, answer.version) == (status, 2) else None


def _winner_of_expired(meeting: Meeting, conv_id: str, answer: Conversation, steps: list[Any]) -> str | None:
    if str(answer.conv_id) == conv_id:
        # The message came before the deadline; the conversation has ended since.
        in_time = meeting.order == "at the deadline" and steps[-1:] == [("expired", "worker")]
        return "message" if in_time and not any(kind == "paused" for kind, _ in steps[1:]) else None
    if answer.version or answer.status != ("pending" if meeting.sender == "user" else "progress"):
        return None
    # At the deadline it may have been idle for a moment before it was expired.
    if meeting.order == "at the deadline" and steps[:1] == [("paused", "worker")]:
        steps = steps[1:]
    actors = {("expired", meeting.sender): "message", ("expired", "worker"): "sweep"}
    return actors.get(steps[0]) if len(steps) == 1 else None


def test_the_message_wins_or_the_sweep_does(chaos_url: str, chance: random.Random, outcome: Outcome) -> None:
    wins: Counter[tuple[str, str]] = Counter()
    with ThreadPoolExecutor(2) as pool, closing(Arena(chaos_url, pool)) as arena:
        met = []
        for number in range(INTERLEAVINGS):
            meeting = Meeting.by_chance(number, chance)
            conv_id = arena.begin(meeting)
            answer = ORDERS[meeting.order](arena, meeting)
            if meeting.order == "at the deadline":
                time.sleep(0.02)
            arena.sweep()
            met.append((meeting, conv_id, answer))
        check_invariants(arena.other)
        history = History.of(arena.other)
        for meeting, conv_id, answer in met:
            wins[meeting.order, winner(meeting, conv_id, answer, history)] += 1
        rows = run_sql(arena.other, "SELECT count(*) FROM conversations")[0][0]
        # Nothing was opened that no message was answered with.
        assert rows == len({conv_id for _, conv_id, _ in met} | {str(answer.conv_id) for _, _, answer in met})
        for who, never in (("sweep", MESSAGE_WINS), ("message", SWEEP_WINS)):
            won = {order for order, winner in wins if winner == who}
            possible = set(ORDERS) - set(never)
            assert won == possible if is_full() else won <= possible, wins
        outcome.add(
            arena.other,
            interleavings=INTERLEAVINGS,
            **{f"the message won: {order}": wins[order, "message"] for order in ORDERS if order not in SWEEP_WINS},
            **{f"the sweep won: {order}": wins[order, "sweep"] for order in ORDERS if order not in MESSAGE_WINS},
            events=sum(map(len, history.events.values())),
        )
