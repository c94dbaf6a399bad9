"""Group commit for an event loop: as `store.group_commit`, with callers that await."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from copy import copy
from typing import Any

from lapse.checked_message import CheckedMessage
from lapse.errors import DatabaseUnavailableError, LapseError
from lapse.messages import MessageResult
from lapse.store import limits
from lapse.store.async_database import AsyncDatabase
from lapse.store.cancellation import outlast
from lapse.store.group_commit import TAKE_OVER_SECONDS
from lapse.store.operations.activities import OpenPairs
from lapse.store.operations.messages import MAX_GROUP, record, record_group

MAX_WAITING = 10_000
"""Messages that wait; then callers wait until they may."""


class _Group:
    """Messages that are at the database together."""

    __slots__ = ("entries", "work")

    def __init__(self, entries: Sequence[_Entry], work: asyncio.Task[Sequence[Any]]) -> None:
        self.entries, self.work = entries, work

    def end_if_unwanted(self) -> None:
        """Cancel the statement where all of its callers are cancelled."""
        if not self.work.cancelling() and all(entry.result.done() for entry in self.entries):
            self.work.cancel()


class _Entry:
    """A message that waits, and who waits for its result."""

    __slots__ = ("group", "limits", "message", "result")

    def __init__(self, message: CheckedMessage, result: asyncio.Future[Any]) -> None:
        self.message, self.result = message, result
        self.limits = limits.current()
        self.group: _Group | None = None
        """Not None: it is at the database, until the group's work is done."""


class AsyncGroupCommit:
    """Records the messages of one event loop."""

    def __init__(self, database: AsyncDatabase) -> None:
        """Record in this database."""
        self._database = database
        self.known = OpenPairs()
        self._waiting: deque[_Entry] = deque()
        self._room = asyncio.Semaphore(MAX_WAITING)
        self._leaders: set[asyncio.Task[None]] = set()
        """All whose statement is at the database; more than one where one takes long."""
        self._leader: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Wait for what is at the database."""
        while self._leaders:
            await asyncio.wait(self._leaders)

    async def record(self, message: CheckedMessage) -> MessageResult:
        """Record a message, and return its result after the commit; errors as `GroupCommit.record`.

        Where the caller is cancelled, a message that waits is not recorded. One that is at the database is waited for:
        it may have been recorded. Its statement is cancelled where no other caller wants it.
        """
        while True:
            async with self._room:
                result = await self._join(message)
            if not isinstance(result, DatabaseUnavailableError) or not limits.current().remaining:
                break  # else another of its group had less time
        if isinstance(result, LapseError):
            raise copy(result)  # others raise it, too
        return result or await self._record_alone(message)

    async def _join(self, message: CheckedMessage) -> MessageResult | LapseError | None:
        entry = _Entry(message, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._leader is None:
            self._lead()
        try:
            result: MessageResult | LapseError | None = await entry.result
        except asyncio.CancelledError:
            if entry.group is not None:
                entry.group.end_if_unwanted()
                await outlast(entry.group.work)
            raise
        return result

    def _lead(self) -> None:
        task = self._leader = asyncio.create_task(self._record_waiting(), name="lapse group commit")
        self._leaders.add(task)
        task.add_done_callback(self._leaders.discard)

    async def _record_waiting(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            while self._leader is task and (group := self._take()):
                patience = loop.call_later(TAKE_OVER_SECONDS, self._pass_on, task)
                try:
                    await self._record(group)
                finally:
                    patience.cancel()
                await asyncio.sleep(0)  # who was answered may have the next message at once
        finally:
            if self._leader is task:
                self._leader = None

    def _pass_on(self, task: asyncio.Task[Any] | None) -> None:
        """Let what waits, or comes, go beside a statement that takes long."""
        if self._leader is task:
            self._leader = None
            if self._waiting:
                self._lead()

    def _take(self) -> list[_Entry]:
        group: list[_Entry] = []
        while self._waiting and len(group) < MAX_GROUP:
            entry = self._waiting.popleft()
            if not entry.result.done():  # cancelled
                group.append(entry)
        return group

    async def _record(self, entries: Sequence[_Entry]) -> None:
        limits.enter(min((entry.limits for entry in entries), key=lambda one: one.deadline or math.inf))
        group = _Group(entries, asyncio.create_task(self._results(entries)))
        for entry in entries:
            entry.group = group
        is_cancelled = await outlast(group.work)  # the loop ends, and with it the work
        for place, entry in enumerate(entries):
            if entry.result.done():
                continue
            if group.work.cancelled():
                entry.result.cancel()
            elif (error := group.work.exception()) is not None:
                entry.result.set_exception(error)
            else:
                entry.result.set_result(group.work.result()[place])
        if is_cancelled:
            raise asyncio.CancelledError

    async def _results(self, group: Sequence[_Entry]) -> Sequence[Any]:
        """Return the result of each message, or the error of them all."""
        try:
            return await self._recorded(group)
        except LapseError as error:
            return [error] * len(group)

    async def _recorded(self, group: Sequence[_Entry]) -> Sequence[Any]:
        if len(group) == 1:
            return [await self._record_alone(group[0].message)]
        results = await self._database.run(record_group, [entry.message for entry in group], self.known)
        for entry in group:
            self.known.add(entry.message.key)
        return results

    async def _record_alone(self, message: CheckedMessage) -> MessageResult:
        result = await self._database.run(record, message, message.key in self.known)
        self.known.add(message.key)
        return result
