"""One version of lapse, told a line at a time what to do. Uses what every version has: the service and `migrate`."""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import closing

from benchmarks.helpers import answer, database_url
from lapse import ConversationService
from lapse.store import migrate

CLOCK_EVERY = 20
BATCH = 100
BUSINESS = "+14155238886"


def main() -> None:
    """Open conversations, then answer a line `messages SECONDS`, or `sweep` of what is due, with seconds for each."""
    number = int(sys.argv[1])
    customers = [f"+1212{place:07}" for place in range(number)]
    order = itertools.cycle([place * 7919 % number for place in range(number)])
    with closing(ConversationService(database_url())) as service:
        migrate(service.database)
        open_all(service, customers)
        answer({"ready": True})
        for line in sys.stdin:
            match line.split():
                case ["messages", seconds]:
                    answer({"seconds": messages(service, customers, order, float(seconds))})
                case _:
                    taken = sweep(service)
                    open_all(service, customers)
                    answer({"seconds": taken})


def open_all(service: ConversationService, customers: list[str]) -> None:
    """Send a message of each customer."""
    for address in customers:
        service.record_message(1, address, BUSINESS)


def messages(service: ConversationService, customers: list[str], order: itertools.cycle[int], seconds: float) -> float:
    """Send messages for so long, and return the seconds for each."""
    sent, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        for _ in range(CLOCK_EVERY):
            service.record_message(1, customers[next(order)], BUSINESS)
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
