"""A database and a service whose work an event loop does, for tests that call from a thread."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple

from lapse import AsyncConversationService, ConversationService, Database, Settings
from lapse.store.async_database import AsyncDatabase
from lapse.store.database import Clock
from lapse.store.operations import Steps
from lapse.store.statements import Statements

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class LoopDatabase(Database):
    """Hands each operation to an event loop in a thread of its own, in the context (and so the limits) of the call."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        super().__init__(url, clock)
        self.asynchronous = AsyncDatabase(url, clock)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._task: asyncio.Task[object] | None = None

    def run(self, operation: Callable[[Statements, *Ts], Steps[T]], *arguments: *Ts, **options: Any) -> T:
        return self.wait_for(lambda: self.asynchronous.run(operation, *arguments, **options))

    def wait_for(self, call: Callable[[], Awaitable[T]]) -> T:
        """Have the loop await what `call` returns."""

        async def work() -> T:
            self._task = asyncio.current_task()
            try:
                return await call()
            finally:
                self._task = None

        return asyncio.run_coroutine_threadsafe(work(), self.loop).result()

    def cancel(self) -> None:
        """Cancel the call in hand, if there is one; its caller hears of it once that has ended."""

        def cancel() -> None:
            if self._task is not None:
                self._task.cancel()

        self.loop.call_soon_threadsafe(cancel)

    def settle(self) -> None:
        """Wait until the loop has done what it was told so far: a cancellation that came too late, say."""
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result()

    def close(self) -> None:
        super().close()
        if self.loop.is_running():
            asyncio.run_coroutine_threadsafe(self.asynchronous.close(), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()


class LoopService(ConversationService):
    """Every call is one of `AsyncConversationService`, awaited on the loop of the database."""

    def __init__(self, database: LoopDatabase, *, settings: Settings | None = None) -> None:
        super().__init__(database, settings=settings)
        self.asynchronous = AsyncConversationService(database.asynchronous, settings=self.settings)


def _awaited(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: LoopService, *arguments: Any, **options: Any) -> Any:
        assert isinstance(self.database, LoopDatabase)
        return self.database.wait_for(lambda: getattr(self.asynchronous, name)(*arguments, **options))

    return call


for _name, _method in inspect.getmembers(AsyncConversationService, inspect.iscoroutinefunction):
    if not _name.startswith("_") and _name != "close":
        setattr(LoopService, _name, _awaited(_name, _method))
