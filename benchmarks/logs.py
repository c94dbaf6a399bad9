"""Made-up logs of messages, as files for `lapse replay`; the same ones in every run."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from lapse.replay.message_log import REQUIRED_COLUMNS
from tests.support.backlog import BUSINESS, customer

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
CHANNEL = "sms"


class Line(NamedTuple):
    """A message: when, whose, and whether it comes from the business."""

    at: datetime
    customer: int
    is_answer: bool


def dense(number: int, customers: int, days: int = 30) -> list[Line]:
    """Return dialogues of a few minutes, in order of time; the second message is an answer, and so is the last one."""
    chance = random.Random(1)
    lines: list[Line] = []
    while len(lines) < number:
        moment = BEGIN + timedelta(seconds=chance.uniform(0, days * 86_400))
        who = chance.randrange(customers)
        length = chance.randint(2, 12)
        for place in range(length):
            lines.append(Line(moment, who, place % 3 == 1 or place == length - 1))
            moment += timedelta(seconds=chance.expovariate(1 / 60))
    return sorted(lines[:number])


def sparse(number: int, pairs: int, days: int = 180) -> list[Line]:
    """Return dialogues of up to twenty hours with hours between the messages, in order of time.

    Half of them are begun by the business; in the others it answers within ten minutes, so that in each somebody has
    answered before the first pause. The second dialogue of a pair is in another part of the time.
    """
    chance = random.Random(2)
    lines: list[Line] = []
    for place in range(number):
        if len(lines) >= number:
            break
        part, who = divmod(place, pairs)
        moment = BEGIN + timedelta(days=days / 2 * (part + chance.uniform(0, 0.95)))
        begun_by_business = chance.random() < 0.5
        lines.append(Line(moment, who, begun_by_business))
        if not begun_by_business:
            moment += timedelta(seconds=chance.uniform(10, 600))
            lines.append(Line(moment, who, True))
        for _ in range(chance.randint(3, 6)):
            moment += timedelta(hours=chance.uniform(0.6, 3.2))
            lines.append(Line(moment, who, chance.random() < 0.3))
    return sorted(lines[:number])


def silences(lines: Iterable[Line], timeout: timedelta = timedelta(minutes=30)) -> float:
    """Return the share of messages before which their pair was silent for longer than the timeout."""
    latest: dict[int, datetime] = {}
    silent = number = 0
    for line in lines:
        number += 1
        silent += line.customer not in latest or line.at - latest[line.customer] > timeout
        latest[line.customer] = line.at
    return silent / number


def write_log(path: Path, lines: Iterable[Line]) -> None:
    """Write a file as `lapse replay` reads it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(REQUIRED_COLUMNS)
        writer.writerows(rows(lines))


def rows(lines: Iterable[Line]) -> Iterator[tuple[str, ...]]:
    """Return the lines of the file."""
    for line in lines:
        address = customer(line.customer)
        pair = (BUSINESS, address) if line.is_answer else (address, BUSINESS)
        yield line.at.isoformat(), "1", *pair, CHANNEL, "agent" if line.is_answer else "user"
