"""Group commit for an event loop: as `store.group_commit`, with callers that await."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence, Set
from copy import copy
from typing import Any, cast

from lapse.checked_message import CheckedMessage, PairKey
from lapse.errors import DatabaseUnavailableError, LapseError
from lapse.messages import MessageResult
from lapse.store import limits
from lapse.store.async_database import AsyncDatabase
from lapse.store.cancellation import outlast
from lapse.store.group_commit import TAKE_OVER_SECONDS
from lapse.store.operations.activities import OpenPairs
from lapse.store.operations.messages import MAX_GROUP, record, record_group

LANES = 2
"""Statements at the database at once: while it works on one, this process prepares and answers the other's messages."""
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
        self._lanes: dict[asyncio.Task[None], Set[PairKey]] = {}
        """Those that record what waits, with the pairs whose messages they have at the database."""
        self._tasks: set[asyncio.Task[None]] = set()
        """The lanes, and those that were lanes until their statement took long."""

    async def close(self) -> None:
        """Wait for what is at the database."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def record(self, message: CheckedMessage) -> MessageResult:
        """Record a message, and return its result after the commit; errors as `GroupCommit.record`.

        Where the caller is cancelled, a message that waits is not recorded. One that is at the database is waited for:
        it may have been recorded. Its statement is cancelled where no other caller wants it.
        """
        while True:
            await self._room.acquire()  # in the order of arrival, and nobody is woken in vain
            entry = _Entry(message, asyncio.get_running_loop().create_future())
            self._waiting.append(entry)
            if len(self._lanes) < LANES:
                self._open_lane()
            try:
                result = await entry.result
            except asyncio.CancelledError:
                if entry.group is not None:
                    entry.group.end_if_unwanted()
                    await outlast(entry.group.work)
                raise
            if not isinstance(result, DatabaseUnavailableError) or not limits.current().remaining:
                break  # else another of its group had less time
        if isinstance(result, LapseError):
            raise copy(result)  # others raise it, too
        return result or await self._record_alone(message)

    def _open_lane(self) -> None:
        task = asyncio.create_task(self._record_waiting(), name="lapse group commit")
        self._lanes[task] = frozenset()
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._lanes.pop(task, None)  # one that was cancelled before it began is still there
        if not self._lanes and any(not entry.result.done() for entry in self._waiting):
            self._open_lane()  # somebody cancelled the last one, and not those who wait

    async def _record_waiting(self) -> None:
        loop, task = asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())
        try:
            while task in self._lanes and (group := self._take()):
                self._lanes[task] = {entry.message.key for entry in group}
                patience = loop.call_later(TAKE_OVER_SECONDS, self._pass_on, task)
                try:
                    await self._record(group)
                finally:
                    patience.cancel()
                await asyncio.sleep(0)  # who was answered may have the next message at once
                if task in self._lanes:
                    self._lanes[task] = frozenset()
        finally:
            self._lanes.pop(task, None)

    def _pass_on(self, task: asyncio.Task[None]) -> None:
        """Let what waits, or comes, go beside a statement that takes long."""
        if self._lanes.pop(task, None) is not None and self._waiting:
            self._open_lane()

    def _take(self) -> list[_Entry]:
        """Take this lane's share of what waits; messages of a pair that is at the database wait for those before."""
        at_database = set[PairKey]().union(*self._lanes.values())
        share = -(-(len(self._waiting) + len(at_database)) // len(self._lanes))
        most = min(share, MAX_GROUP)
        group: list[_Entry] = []
        passed_over: list[_Entry] = []
        while self._waiting and len(group) < most and len(passed_over) < MAX_GROUP:
            entry = self._waiting.popleft()
            if entry.message.key in at_database:
                passed_over.append(entry)
                continue
            self._room.release()
            if not entry.result.done():  # else cancelled
                group.append(entry)
        self._waiting.extendleft(reversed(passed_over))
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
        self.known.note([entry.message for entry in group])
        return results

    async def _record_alone(self, message: CheckedMessage) -> MessageResult:
        result = await self._database.run(record, message, message.key in self.known)
        self.known.note([message])
        return result
