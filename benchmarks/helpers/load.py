"""Messages on existing conversations at a fixed rate, whatever becomes of them: latency from the intended moment on."""

from __future__ import annotations

import argparse
import sys
import threading
import time

from benchmarks.backlogs import CHANNEL, owner_of
from benchmarks.helpers import answer, database_url, wait_for_go
from lapse import ConversationService
from tests.support.backlog import BUSINESS, customer


def main() -> None:
    """Send messages until a line comes, and hand over [moment, latency in ms] of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--customers", type=int, nargs=2, required=True)
    arguments = parser.parse_args()
    service = ConversationService(database_url())
    customers = range(*arguments.customers)
    for number in customers:
        record(service, number)  # as in the middle of a day: each pair has been seen
    wait_for_go()
    over = threading.Event()
    threading.Thread(target=wait_for_stop, args=[over], daemon=True).start()
    moments: list[float] = []
    latencies: list[float] = []
    begin, epoch = time.perf_counter(), time.time()
    while not over.is_set():
        number = len(moments)
        intended = begin + number / arguments.rate
        if (early := intended - time.perf_counter()) > 0:
            time.sleep(early)
        # A stride that is coprime to most numbers: neighbours in time are no neighbours in the table.
        record(service, customers[number * 7919 % len(customers)])
        moments.append(round(epoch + intended - begin, 4))
        latencies.append(round(1000 * (time.perf_counter() - intended), 3))
    service.close()
    answer({"moments": moments, "latencies": latencies})


def wait_for_stop(over: threading.Event) -> None:
    """Wait for the line that ends it."""
    sys.stdin.readline()
    over.set()


def record(service: ConversationService, number: int) -> None:
    """Note a message of this customer."""
    service.record_message(owner_of(number), customer(number), BUSINESS, CHANNEL)


if __name__ == "__main__":
    main()
