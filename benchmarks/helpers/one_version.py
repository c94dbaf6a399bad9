"""One version of lapse, told a line at a time what to do. Uses what every version has: the service and `migrate`."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from benchmarks.helpers import answer, database_url
from lapse import ConversationService
from lapse.store import migrate

CLOCK_EVERY = 20
BATCH = 100
BUSINESS = "+14155238886"


class Customer(NamedTuple):
    """The first arguments of `record_message`."""

    owner_id: int
    from_number: str
    to_number: str
    channel: str


def main() -> None:
    """Send a message of each customer, so that all have conversations, then answer each line with the seconds for each.

    `messages SECONDS` on them, `open SECONDS` of pairs that nobody has seen, or `sweep` of what is due.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, nargs=2, required=True)
    parser.add_argument("--owners", type=int, default=1)
    parser.add_argument("--channel", default="whatsapp")
    arguments = parser.parse_args()

    def customer(number: int) -> Customer:
        return Customer(number % arguments.owners + 1, f"+1212{number:07}", BUSINESS, arguments.channel)

    customers = [customer(number) for number in range(*arguments.customers)]
    order = itertools.cycle([customers[place * 7919 % len(customers)] for place in range(len(customers))])
    newest = (customer(number) for number in itertools.count(10_000_000))
    with closing(ConversationService(database_url())) as service:
        migrate(service.database)
        send_all(service, customers)
        answer({"ready": True})
        for line in sys.stdin:
            match line.split():
                case ["messages", seconds]:
                    answer({"seconds": messages(service, order, float(seconds))})
                case ["open", seconds]:
                    answer({"seconds": messages(service, newest, float(seconds))})
                case _:
                    taken = sweep(service)
                    send_all(service, customers)
                    answer({"seconds": taken})


def send_all(service: ConversationService, customers: Iterable[Customer]) -> None:
    """Send a message of each customer."""
    for customer in customers:
        service.record_message(*customer)


def messages(service: ConversationService, customers: Iterator[Customer], seconds: float) -> float:
    """Send messages for so long, and return the seconds for each."""
    sent, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        for _ in range(CLOCK_EVERY):
            service.record_message(*next(customers))
        sent += CLOCK_EVERY
    return passed / sent


def sweep(service: ConversationService) -> float:
    """End what is due, batch after batch, and return the seconds for each conversation."""
    ended, begin = 0, time.perf_counter()
    while more := service.process_expired_conversations(limit=BATCH):
        ended += more
    return (time.perf_counter() - begin) / ended


if __name__ == "__main__":
    main()
