"""Callers of one service at the same time: threads, or tasks of an event loop, started and waited for alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import psycopg

from lapse import AsyncConversationService, ConversationService, Message, MessageResult, load_settings
from tests.support.backlog import BUSINESS, customer

MOST_THREADS = 300
PATIENCE_SECONDS = 30


class Callers(Protocol):
    """A service, and those who call it."""

    def start(self, message: Message) -> Future[MessageResult]:
        """Let another one record a message."""

    def start_all(self, messages: Sequence[Message]) -> list[Future[MessageResult]]:
        """Let as many others record these messages."""


class Threads:
    """A thread for each call."""

    def __init__(self, url: str, seconds: float) -> None:
        self.service = ConversationService(url, settings=load_settings(call_timeout_seconds=seconds))
        self._threads = ThreadPoolExecutor(MOST_THREADS)

    def start(self, message: Message) -> Future[MessageResult]:
        """Let a thread record a message."""
        return self._threads.submit(self.service.record, message)

    def start_all(self, messages: Sequence[Message]) -> list[Future[MessageResult]]:
        """Let as many threads record these messages."""
        return [self.start(message) for message in messages]

    def close(self) -> None:
        """Wait for the calls, and close the service."""
        self._threads.shutdown()
        self.service.close()


class Tasks:
    """A task for each call, on an event loop of its own."""

    def __init__(self, url: str, seconds: float) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.service = self._of_loop(self._open(url, seconds)).result()

    async def _open(self, url: str, seconds: float) -> AsyncConversationService:
        return AsyncConversationService(url, settings=load_settings(call_timeout_seconds=seconds))

    def _of_loop(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def start(self, message: Message) -> Future[MessageResult]:
        """Let a task record a message."""
        return self._of_loop(self.service.record(message))

    def start_all(self, messages: Sequence[Message]) -> list[Future[MessageResult]]:
        """Let as many tasks record these messages, all of which begin in one turn of the loop."""
        futures: list[Future[MessageResult]] = [Future() for _ in messages]

        async def settle(message: Message, future: Future[MessageResult]) -> None:
            try:
                future.set_result(await self.service.record(message))
            except BaseException as error:
                future.set_exception(error)

        async def begin() -> list[asyncio.Task[None]]:
            pairs = zip(messages, futures, strict=True)
            return [asyncio.create_task(settle(message, future)) for message, future in pairs]

        self._tasks = self._of_loop(begin()).result()
        return futures

    def close(self) -> None:
        """Close the service, and end the loop."""
        self._of_loop(self.service.close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


KINDS: dict[str, type[Threads] | type[Tasks]] = {"threads": Threads, "asyncio": Tasks}


@contextmanager
def calling(kind: str, url: str, seconds: float = PATIENCE_SECONDS) -> Iterator[Callers]:
    """Open a service for callers of this kind, whose calls may take so long."""
    callers = KINDS[kind](url, seconds)
    try:
        yield callers
    finally:
        callers.close()


def message_of(number: int, *, sender: str = "user", message_id: str | None = None) -> Message:
    """Return a message of this customer's, or to them."""
    addresses = (customer(number), BUSINESS) if sender == "user" else (BUSINESS, customer(number))
    return Message(1, *addresses, "sms", sender, message_id=message_id)


def plain(url: str) -> str:
    """Return the URL for psycopg itself."""
    return url.replace("+psycopg", "")


@contextmanager
def locked(url: str, *numbers: int) -> Iterator[psycopg.Connection[Any]]:
    """Keep the conversations of these customers locked, as another program that has written to them."""
    with psycopg.connect(plain(url)) as other:
        customers = [customer(number) for number in numbers]
        found = other.execute(
            "UPDATE conversations SET context = context WHERE from_number = ANY(%(of)s) OR to_number = ANY(%(of)s)",
            {"of": customers},
        )
        assert found.rowcount == len(numbers)
        yield other
        other.rollback()


def outcomes_of(futures: Sequence[Future[MessageResult]], seconds: float = PATIENCE_SECONDS) -> list[str]:
    """Return the outcome of each call, or the name of its error."""
    found = []
    for future in futures:
        error = future.exception(seconds)
        found.append(future.result().outcome.value if error is None else type(error).__name__)
    return found
