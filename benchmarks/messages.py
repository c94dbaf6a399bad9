"""Messages through lapse and the same through the bare driver, in slices that alternate."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.backlogs import CHANNEL, owner_of
from benchmarks.bench import Bench
from benchmarks.profiles import profile_of
from benchmarks.results import Figure, Goal, Outcome, median
from benchmarks.statements import Sent, statements_of
from lapse import ConversationService
from tests.support.backlog import BUSINESS, customer

SLICE_SECONDS = 0.5
SLICES = 40
PROFILED = 20_000
CLOCK_EVERY = 20


@dataclass(frozen=True, slots=True)
class Sides:
    """A message by its number in the round, on each side."""

    lapse: Callable[[int], Any]
    upsert: Callable[[int], Any]
    """The bare driver with INSERT … ON CONFLICT DO UPDATE, which any message could be noted with."""
    update: Callable[[int], Any]
    """The bare driver with the UPDATE that lapse sends where it knows the pair."""


def record(service: ConversationService, number: int) -> Any:
    """Note a message of this customer."""
    return service.record_message(owner_of(number), customer(number), BUSINESS, CHANNEL)


def sent_for(service: ConversationService, customers: Sequence[int]) -> list[Sent]:
    """Return the one statement that lapse sends for a message of each of these customers.

    The first time it is the upsert, then the UPDATE, for lapse knows the pair.
    """
    service.next_deadlines()  # the looks at the schema and at the database's shape are the first call's
    sent: list[Sent] = []
    for number in customers:
        (one,) = statements_of(lambda number=number: record(service, number))  # type: ignore[misc]
        sent.append(one)
    return sent


def sides(service: ConversationService, customers: Sequence[int], execute: Callable[[str, Any], Any]) -> Sides:
    """Return all sides; `execute` runs a statement on the bare driver and fetches its row."""
    upserts, updates = (sent_for(service, customers) for _ in range(2))
    return Sides(
        lapse=lambda number: record(service, customers[number]),
        upsert=lambda number: execute(*upserts[number]),
        update=lambda number: execute(*updates[number]),
    )


def compare(bench: Bench, both: Sides, conversations: int, goal: float, name: str) -> Outcome:
    """Let slices of the three sides alternate."""
    order = [number * 7919 % conversations for number in range(conversations)]
    turns = {side: (getattr(both, side), itertools.cycle(order)) for side in ("lapse", "upsert", "update")}
    profiled = bench.rows(PROFILED)
    rates: dict[str, list[float]] = {side: [] for side in turns}
    seconds = bench.seconds(SLICE_SECONDS, least=0.05)
    for _ in bench.rounds(SLICES):
        for side, (send, numbers) in turns.items():
            rates[side].append(rate_of(send, numbers, seconds))

    def against(side: str) -> float:
        return median(ours / plain for ours, plain in zip(rates["lapse"], rates[side], strict=True))

    ours, upsert, update = (median(found) for found in rates.values())
    bench.say(f"lapse {ours:,.0f}/s, bare upsert {upsert:,.0f}/s, bare update {update:,.0f}/s: {against('upsert'):.2f}")
    return Outcome(
        figures=[
            Figure(name, against("upsert"), "times", Goal(goal)),
            Figure("against the very UPDATE that lapse sends, on the bare driver", against("update"), "times"),
            Figure("lapse, messages", ours, "1/s"),
            Figure("bare driver, upserts", upsert, "1/s"),
            Figure("bare driver, updates", update, "1/s"),
            Figure("lapse's own time for a message", 1e6 / ours - 1e6 / update, "µs"),
        ],
        parameters={"conversations": conversations, "slice_seconds": seconds},
        raw={"per_second": {side: [round(rate, 1) for rate in found] for side, found in rates.items()}},
        texts={"profile": profile_of(lambda: send_some(both.lapse, order, profiled), f"{profiled} messages")},
    )


def rate_of(send: Callable[[int], Any], numbers: Any, seconds: float) -> float:
    """Return messages a second, sent for so long."""
    sent, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        for _ in range(CLOCK_EVERY):
            send(next(numbers))
        sent += CLOCK_EVERY
    return sent / passed


def send_some(send: Callable[[int], Any], order: Sequence[int], number: int) -> None:
    """Send so many messages."""
    for place in itertools.islice(itertools.cycle(order), number):
        send(place)
