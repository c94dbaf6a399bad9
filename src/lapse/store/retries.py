"""What becomes of an attempt that failed: its error in lapse's words, and another attempt where that may help."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from lapse.errors import CallTimeoutError, DatabaseUnavailableError, LapseError
from lapse.store import limits
from lapse.store.driver_errors import SqliteBusyError, translate
from lapse.store.drivers.sqlite import BUSY_LOOK_SECONDS
from lapse.store.pool import PoolTimeoutError

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 10
"""How long a write waits for another one on SQLite, where the call has no limit of its own."""
RETRY_TIMEOUT_SECONDS = 10
"""No attempt begins later than this after the first one failed; a call with a limit of its own goes by that."""
_WORTH_IT = tenacity.retry_if_exception(
    lambda error: isinstance(error, DatabaseUnavailableError) and not isinstance(error, CallTimeoutError)
)
# At once, since a connection that was cut says nothing about the next one; then with jitter, so that all callers of a
# lost server do not come back at once.
_WAIT = tenacity.wait_exponential_jitter(multiplier=0.1, max=2, jitter=1)


class Retries:
    """Attempts at one database. The errors come out without the driver's, which may hold a row's values."""

    def __init__(self, errors: tuple[type[Exception], ...]) -> None:
        """Translate these errors, which an attempt may raise."""
        self.errors: tuple[type[Exception], ...] = (*errors, PoolTimeoutError)

    def attempt(self, attempt: Callable[[], T], *, retry: bool, problem: Exception | None = None) -> T:
        """Attempt it until it is done, or cannot be.

        Args:
            attempt: is repeatable.
            retry: False: once.
            problem: what a first attempt came to, where it was made.

        Raises:
            LapseError: what the last attempt came to.
        """
        try:
            return self._retry_while_busy(attempt, problem)
        except CallTimeoutError:
            raise
        except DatabaseUnavailableError as error:
            if not retry:
                raise
            first = error
        retries = tenacity.Retrying(retry=_WORTH_IT, wait=_WAIT, stop=_stop(), reraise=True)
        try:
            result: T = retries(self._retry_while_busy, attempt)
        except CallTimeoutError as error:
            raise _after(first, error) from None
        return result

    def _retry_while_busy(self, attempt: Callable[[], T], problem: Exception | None = None) -> T:
        """Attempt it, and wait for SQLite's write lock in small pieces that a stop can come between."""
        give_up_at: float | None = None
        while True:
            try:
                if problem is None:
                    return attempt()
            except self.errors as error:
                problem = error
            translated, problem = in_lapses_words(problem), None
            if not isinstance(translated, SqliteBusyError):
                raise translated
            limit, now = limits.current(), time.monotonic()
            if give_up_at is None:
                # Each look takes a while itself.
                give_up_at = (limit.deadline or now + BUSY_TIMEOUT_SECONDS) - BUSY_LOOK_SECONDS
            if limit.is_stopping() or now >= give_up_at:
                raise translated if limit.seconds is None else _overdue("another process keeps the file locked")

    async def attempt_async(self, attempt: Callable[[], Awaitable[T]], *, retry: bool, problem: Exception) -> T:
        """Attempt it again after this problem; as `attempt`, for PostgreSQL."""
        first = problem if isinstance(problem, LapseError) else in_lapses_words(problem)
        if not retry or isinstance(first, CallTimeoutError) or not isinstance(first, DatabaseUnavailableError):
            raise first
        retries = tenacity.AsyncRetrying(retry=_WORTH_IT, wait=_WAIT, stop=_stop(), reraise=True)
        try:
            result: T = await retries(self._attempt_once_async, attempt)
        except CallTimeoutError as error:
            raise _after(first, error) from None
        return result

    async def _attempt_once_async(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await attempt()
        except self.errors as error:
            problem: Exception = error
        raise in_lapses_words(problem)


def in_lapses_words(problem: Exception) -> LapseError:
    """Return what an attempt raised as one of lapse's errors."""
    if isinstance(problem, PoolTimeoutError):
        return _overdue(str(problem))
    translated = translate(problem)
    return _overdue(str(translated)) if isinstance(translated, CallTimeoutError) else translated


def _stop() -> tenacity.stop_before_delay:
    remaining = limits.current().remaining
    return tenacity.stop_before_delay(RETRY_TIMEOUT_SECONDS if remaining is None else remaining)


def _after(first: LapseError, error: CallTimeoutError) -> CallTimeoutError:
    # Time was up for a last attempt; why there had to be one is what helps.
    return CallTimeoutError(f"{error}; at first, {first}")


def _overdue(reason: str) -> DatabaseUnavailableError:
    """Return the error that says for what the call's time was used up."""
    seconds = limits.current().seconds
    if seconds is None:
        return DatabaseUnavailableError(f"the database is not available: {reason}")
    return CallTimeoutError(f"not done in time (LAPSE_CALL_TIMEOUT, {seconds:g} seconds): {reason}")
