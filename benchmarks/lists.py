"""Lists of messages on the conversations of a backlog."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.backlogs import CHANNEL, owner_of
from lapse import Message
from tests.support.backlog import BUSINESS, customer

LIST = 500


def message_of(number: int, message_id: str | None = None) -> Message:
    """Return a message of this customer."""
    return Message(owner_of(number), customer(number), BUSINESS, CHANNEL, message_id=message_id)


def numbers_of(customers: Sequence[int]) -> list[list[int]]:
    """Return the customers in lists: neighbours in a list are no neighbours in the table."""
    order = [customers[place * 7919 % len(customers)] for place in range(len(customers))]
    size = min(LIST, len(customers))
    return [order[begin : begin + size] for begin in range(0, len(order) - size + 1, size)]


def lists_of(customers: Sequence[int]) -> list[list[Message]]:
    """Return a message of each customer, in lists."""
    return [[message_of(number) for number in numbers] for numbers in numbers_of(customers)]
