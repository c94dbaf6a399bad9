"""Cancelling a coroutine at each of its awaits, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class CancelledAt(Generic[T]):
    """Awaits a coroutine, and cancels the task that does so where it waits for the nth time; the first time is 1."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], moment: int) -> None:
        self._coroutine = coroutine
        self._moment = moment
        self.waits = 0
        """How often it has waited."""

    def __await__(self) -> Generator[Any, Any, T]:
        try:
            waited_for = self._coroutine.send(None)
            while True:
                self.waits += 1
                if self.waits == self._moment:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                try:
                    yield waited_for
                except BaseException as error:
                    waited_for = self._coroutine.throw(error)
                else:
                    waited_for = self._coroutine.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
