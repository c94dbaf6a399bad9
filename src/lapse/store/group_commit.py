"""Group commit for threads: while one statement is at the database, the messages that arrive go together in the next.

No timers: a caller who comes alone waits for nobody. Whoever comes first leads: it records what waits, its own message
with it, gives the others their results, and hands over to one who came meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from copy import copy
from weakref import WeakSet, ref

from lapse.checked_message import CheckedMessage
from lapse.errors import DatabaseUnavailableError, LapseError
from lapse.messages import MessageResult
from lapse.store import limits
from lapse.store.database import Database
from lapse.store.operations.activities import OpenPairs
from lapse.store.operations.messages import MAX_GROUP, record, record_group
from lapse.store.retries import overdue

TAKE_OVER_SECONDS = 0.05
"""How long one statement keeps others waiting: it may itself wait for a row that another session has locked. The next
one goes beside it then, on a connection of its own."""


class _Leadership:
    """Held by the thread whose statement is at the database; where it is gone, so is the leader."""

    __slots__ = ("__weakref__",)


class _Entry:
    """A message that waits, and the thread that waits with it."""

    __slots__ = ("followers", "is_abandoned", "leadership", "led_by", "message", "result", "wake")

    def __init__(self, message: CheckedMessage) -> None:
        self.message = message
        self.wake = threading.Lock()
        self.wake.acquire()
        self.leadership: _Leadership | None = None
        """Not None: this one leads, and records the followers' messages with its own."""
        self.followers: Sequence[_Entry] = ()
        self.led_by: ref[_Leadership] | None = None
        """Not None: another one's group has its message."""
        self.result: MessageResult | LapseError | None = None
        """Set before it is woken, unless it leads; None: its message has to be recorded alone."""
        self.is_abandoned = False


class GroupCommit:
    """Records the messages of any number of threads. Only waiting threads wait in it, so it needs no other bound."""

    def __init__(self, database: Database) -> None:
        """Record in this database."""
        self._database = database
        self.known = OpenPairs()
        self._clear()
        _all.add(self)

    def _clear(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal handler may call the service
        self._waiting: deque[_Entry] = deque()
        self._leader: ref[_Leadership] | None = None
        self._led_since = 0.0

    def record(self, message: CheckedMessage) -> MessageResult:
        """Record a message, and return its result after the commit.

        Raises:
            ConversationRefusedError: the database refused this message; others of its group are recorded.
            DatabaseUnavailableError: the database cannot be reached, or this call's time was up.
        """
        while True:
            leadership, entry = self._join(message)
            if entry is None:
                try:  # as `_record_alone`, in one frame less
                    result = self._database.run(record, message, message.key in self.known)
                finally:
                    self._hand_over(leadership)
                self.known.note([message])
                return result
            was_led = True
            try:
                if self._wait(entry):
                    was_led = False
                    entry.result = self._lead([entry, *entry.followers])
            finally:
                if entry.result is None or not was_led:
                    self._leave(entry)
            if was_led and isinstance(entry.result, DatabaseUnavailableError) and limits.current().remaining:
                continue  # whoever led had less time
            if isinstance(entry.result, LapseError):
                raise copy(entry.result)  # others raise it, too
            return entry.result or self._record_alone(message)

    def _join(self, message: CheckedMessage) -> tuple[_Leadership | None, _Entry | None]:
        """Lead, where nobody does; or wait."""
        entry: _Entry | None = None
        try:
            with self._lock:
                if self._leader is None or self._leader() is None:
                    leadership = _Leadership()
                    self._leader, self._led_since = ref(leadership), time.monotonic()
                    return leadership, None
                entry = _Entry(message)
                self._waiting.append(entry)
            return None, entry
        except BaseException:
            if entry is not None:
                self._leave(entry)
            raise

    def _wait(self, entry: _Entry) -> bool:
        """Wait for the result, or for the lead; return whether it leads.

        Raises:
            CallTimeoutError: this call's time was up; its message may be recorded nevertheless.
        """
        while not entry.wake.acquire(timeout=_patience()):
            with self._lock:
                if entry.leadership is not None:
                    break
                if entry.led_by is not None and entry.led_by() is None:
                    break  # whoever led was interrupted
                if limits.current().remaining == 0:
                    raise overdue("messages of other threads take too long")
                if self._is_stuck():
                    self._pass_on()
        return entry.leadership is not None

    def _leave(self, entry: _Entry) -> None:
        """Nobody waits with this entry any more, and it leads no longer, though an exception may keep it."""
        with self._lock:
            entry.is_abandoned = True
            leadership, entry.leadership, entry.followers = entry.leadership, None, ()
        self._hand_over(leadership)

    def _is_stuck(self) -> bool:
        is_gone = self._leader is None or self._leader() is None
        return is_gone or time.monotonic() - self._led_since >= TAKE_OVER_SECONDS

    def _hand_over(self, leadership: _Leadership | None) -> None:
        if leadership is None:
            return
        with self._lock:
            if self._leader is not None and self._leader() is leadership:
                self._leader = None
                self._pass_on()

    def _pass_on(self) -> None:
        """Make the first that waits the leader of a group; under the lock."""
        leadership = _Leadership()
        led_by = ref(leadership)
        group: list[_Entry] = []
        try:
            while self._waiting and len(group) < MAX_GROUP:
                entry = self._waiting[0]
                if not entry.is_abandoned:
                    entry.led_by = led_by  # before it is taken: where this is interrupted, it knows that nobody leads
                    group.append(entry)
                self._waiting.popleft()
            if group:
                self._leader, self._led_since = led_by, time.monotonic()
                group[0].followers = group[1:]
                group[0].leadership = leadership
                group[0].wake.release()
        finally:
            del leadership  # or an exception would keep it

    def _record_alone(self, message: CheckedMessage) -> MessageResult:
        result = self._database.run(record, message, message.key in self.known)
        self.known.note([message])
        return result

    def _lead(self, group: Sequence[_Entry]) -> MessageResult | LapseError | None:
        """Record a group, wake the followers, and return the result of the first, who leads."""
        results: Sequence[MessageResult | LapseError | None] = ()
        try:
            if len(group) == 1:
                results = [self._record_alone(group[0].message)]
            else:
                results = self._database.run(record_group, [entry.message for entry in group], self.known)
                self.known.note([entry.message for entry in group])
        except LapseError as error:
            results = [error] * len(group)
        finally:
            try:  # first: who leads next would get the interpreter after all who are answered, and the database wait
                self._hand_over(group[0].leadership)
            finally:
                for place, entry in enumerate(group[1:], 1):
                    entry.result = results[place] if results else None  # interrupted: each records its own
                    entry.wake.release()
        return results[0]


def _patience() -> float:
    remaining = limits.current().remaining
    return TAKE_OVER_SECONDS if remaining is None else min(remaining, TAKE_OVER_SECONDS)


_all: WeakSet[GroupCommit] = WeakSet()


def _forget_after_fork() -> None:
    for one in tuple(_all):
        one._clear()


os.register_at_fork(after_in_child=_forget_after_fork)
