"""Messages recorded together by the present version: told `WHAT SECONDS` a line at a time, it answers what it found."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import psycopg

from benchmarks.helpers import answer, database_url
from benchmarks.profiles import profile_of
from benchmarks.results import quantile
from lapse import AsyncConversationService, ConversationService, Message, MessageResult, Outcome
from tests.support.backlog import BUSINESS, customer

T = TypeVar("T")
LIST, AT_ONCE = 500, 64
_BARE = """
    UPDATE conversations AS c SET updated_at = now(), last_inbound_at = now()
    FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS m (owner_id, channel, session_key)
    WHERE c.owner_id = m.owner_id AND c.channel = m.channel AND c.session_key = m.session_key
        AND c.status IN ('pending', 'progress', 'idle_timeout')
"""


def main() -> None:
    """Answer each line; messages are made before the clock runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--customers", type=int, nargs=2, required=True)
    parser.add_argument("--owners", type=int, required=True)
    parser.add_argument("--channel", required=True)
    url = database_url()
    with asyncio.Runner() as runner, closing(ConversationService(url)) as service:
        sender = Sender(parser.parse_args(), url, service, runner)
        answer({"ready": True})
        for line in sys.stdin:
            what, *words = line.split()
            answer(getattr(sender, what)(*map(float, words)))
        runner.run(sender.aio.close())


class Sender:
    """Sends messages of some customers in turn, whose conversations are open; each method is one way to do so."""

    def __init__(
        self, arguments: argparse.Namespace, url: str, service: ConversationService, runner: asyncio.Runner
    ) -> None:
        """Prepare lists, and send each once: from here on each pair is known."""
        self.aio = AsyncConversationService(url)
        self._url, self._service, self._runner = url, service, runner
        self._owners, self._channel = arguments.owners, arguments.channel
        first, last = arguments.customers
        count = last - first
        self._order = [first + place * 7919 % count for place in range(count)]
        size = min(LIST, count)
        self._numbers = [self._order[begin : begin + size] for begin in range(0, count - size + 1, size)]
        self._lists = itertools.cycle([[self._message(number) for number in part] for part in self._numbers])
        self._turns = itertools.cycle(self._numbers)
        self._threads = ThreadPoolExecutor(AT_ONCE)
        self._newest = 10_000_000
        for _ in self._numbers:
            messages = next(self._lists)
            self._service.record_messages(messages)
            self._runner.run(self.aio.record_messages(messages))
        self._runner.run(self._at_once(0.05))

    def lists(self, seconds: float) -> dict[str, Any]:
        """Send lists."""
        return timed(lambda: next(self._lists), self._service.record_messages, seconds, Outcome.CONTINUED)

    def read(self, seconds: float) -> dict[str, Any]:
        """Send lists, and read the conversation of each result."""
        return timed(lambda: next(self._lists), self._record_and_read, seconds, Outcome.CONTINUED)

    def ids(self, seconds: float) -> dict[str, Any]:
        """Send lists of messages with ids that nobody has seen."""
        return timed(self._list_with_ids, self._service.record_messages, seconds, Outcome.CONTINUED)

    def open(self, seconds: float) -> dict[str, Any]:
        """Send lists of messages of pairs that nobody has seen."""
        return timed(self._list_of_new_ones, self._service.record_messages, seconds, Outcome.OPENED)

    def bare(self, seconds: float) -> dict[str, Any]:
        """Send one plain statement for each list."""
        with psycopg.connect(self._url, autocommit=True, prepare_threshold=None) as connection:
            cursor = connection.cursor()

            def send(arrays: Sequence[Any]) -> int:
                return cursor.execute(_BARE, arrays).rowcount

            return timed(self._arrays, send, seconds)

    def plan(self, _seconds: float = 0) -> dict[str, Any]:
        """Return the plan of the plain statement."""
        with psycopg.connect(self._url, autocommit=True) as connection, connection.transaction(force_rollback=True):
            rows = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS) {_BARE}".encode(), self._arrays()).fetchall()
        return {"plan": "\n".join(str(row[0]) for row in rows)}

    def profile(self, lists: float) -> dict[str, Any]:
        """Send so many lists under a profiler."""

        def send() -> None:
            for _ in range(round(lists)):
                self._service.record_messages(next(self._lists))

        return {"profile": profile_of(send, f"{lists:.0f} lists of {LIST} messages")}

    def threads(self, seconds: float) -> dict[str, Any]:
        """Send from 64 threads at once, one message after the other from each."""
        begin = time.perf_counter()
        over = begin + seconds
        calls = self._threads.map(lambda place: self._send_until(over, place), range(AT_ONCE))
        taken = sorted(itertools.chain.from_iterable(calls))
        return with_latencies(taken, time.perf_counter() - begin)

    def tasks(self, seconds: float) -> dict[str, Any]:
        """Send from 64 tasks of one event loop at once."""
        return self._runner.run(self._at_once(seconds))

    def alone(self, seconds: float) -> dict[str, Any]:
        """Send from one task."""
        return self._runner.run(self._at_once(seconds, 1))

    # --- one call after the other ---------------------------------------------------------------------------------

    def _send_until(self, over: float, place: int) -> list[float]:
        taken: list[float] = []
        for number in itertools.cycle(self._order[place::AT_ONCE]):
            begin = time.perf_counter()
            if begin >= over:
                return taken
            _ = self._service.record_message(*self._arguments(number)).conv_id
            taken.append(time.perf_counter() - begin)
        return taken

    async def _at_once(self, seconds: float, callers: int = AT_ONCE) -> dict[str, Any]:
        taken: list[float] = []

        async def call(place: int) -> None:
            for number in itertools.cycle(self._order[place::callers]):
                begin = time.perf_counter()
                if begin >= over:
                    return
                _ = (await self.aio.record_message(*self._arguments(number))).conv_id
                taken.append(time.perf_counter() - begin)

        start = time.perf_counter()
        over = start + seconds
        await asyncio.gather(*(call(place) for place in range(callers)))
        return with_latencies(sorted(taken), time.perf_counter() - start)

    # --- what is sent ---------------------------------------------------------------------------------------------

    def _arguments(self, number: int) -> tuple[int, str, str, str]:
        return number % self._owners + 1, customer(number), BUSINESS, self._channel

    def _message(self, number: int, message_id: str | None = None) -> Message:
        return Message(*self._arguments(number), message_id=message_id)

    def _list_with_ids(self) -> list[Message]:
        return [self._message(number, f"wamid.{secrets.token_hex(16)}") for number in next(self._turns)]

    def _list_of_new_ones(self) -> list[Message]:
        self._newest += LIST
        return [self._message(number) for number in range(self._newest - LIST, self._newest)]

    def _arrays(self) -> list[list[Any]]:
        rows = [self._arguments(number) for number in next(self._turns)]
        keys = ["::".join(sorted([row[1], row[2]])) for row in rows]
        return [[row[0] for row in rows], [row[3] for row in rows], keys]

    def _record_and_read(self, messages: list[Message]) -> list[Any]:
        results = self._service.record_messages(messages)
        for result in results:
            if isinstance(result, MessageResult):
                _ = result.conversation
        return list(results)


def timed(
    make: Callable[[], T], send: Callable[[T], Any], seconds: float, expected: Outcome | None = None
) -> dict[str, Any]:
    """Send for so long, and return the seconds for each message; what is sent is made while the clock stands still.

    Raises:
        ValueError: something else became of a message than what is measured.
    """
    sent, passed = 0, 0.0
    while passed < seconds:
        made = make()
        begin = time.perf_counter()
        results = send(made)
        passed += time.perf_counter() - begin
        sent += results if isinstance(results, int) else len(results)
        if expected is not None and {getattr(result, "outcome", result) for result in results} != {expected}:
            raise ValueError(f"not all of {len(results)} messages were {expected}: {results[0]!r}")
    return {"seconds": passed / sent, "sent": sent}


def with_latencies(taken: Sequence[float], passed: float) -> dict[str, Any]:
    """Return the seconds for each message, and how many milliseconds calls took."""
    milliseconds = {name: round(1000 * quantile(taken, share), 3) for name, share in _SHARES.items()}
    return {"seconds": passed / len(taken), "sent": len(taken), **milliseconds}


_SHARES = {"median": 0.5, "p99": 0.99, "longest": 1.0}


if __name__ == "__main__":
    main()
