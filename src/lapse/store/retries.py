"""Retries: which failures are retried, for how long, and which errors callers see."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

import tenacity

from lapse.errors import CallTimeoutError, DatabaseUnavailableError, LapseError
from lapse.store import limits
from lapse.store.driver_errors import SqliteBusyError, translate
from lapse.store.drivers.sqlite import BUSY_LOOK_SECONDS
from lapse.store.operations import REPEATS
from lapse.store.pool import PoolTimeoutError

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 10
"""How long a write waits for another one on SQLite, where the call has no limit of its own."""
RETRY_TIMEOUT_SECONDS = 10
"""No attempt begins later than this after the first failure; a call with a time limit uses that instead."""
_WORTH_IT = tenacity.retry_if_exception(
    lambda error: isinstance(error, DatabaseUnavailableError) and not isinstance(error, CallTimeoutError)
)
# At once, since a connection that was cut says nothing about the next one; then with jitter, so that all callers of a
# lost server do not come back at once.
_WAIT = tenacity.wait_exponential_jitter(multiplier=0.1, max=2, jitter=1)


class Pause(NamedTuple):
    """Wait before the next attempt."""

    seconds: float


class Retries:
    """Attempts on one database. Errors are raised without the driver's as context, which may hold a row's values."""

    def __init__(self, errors: tuple[type[Exception], ...]) -> None:
        """Translate these errors, which an attempt may raise."""
        self.errors: tuple[type[Exception], ...] = (*errors, PoolTimeoutError)
        self.problems: tuple[type[Exception], ...] = (LapseError, *self.errors)

    def attempts(self, steps: Generator[Any, Any, T], *, retry: bool) -> Generator[Any, Any, T]:
        """Yield each of an operation's steps until it is done or cannot be, and return what the operation returns.

        Whoever does them sends a step's result, or throws the error that it came to (outside the error's own handler:
        it must be nobody's context). Between two attempts it yields a `Pause`.

        Args:
            steps: of the operation; each is repeatable.
            retry: False: each is attempted once.

        Raises:
            LapseError: what the last attempt came to, where the operation does not handle it.
        """
        problem: Exception | None = None
        repeats = 0
        try:
            step = next(steps)
            while True:
                if step is REPEATS:
                    step = steps.send(repeats)
                    continue
                try:
                    result = yield step
                except LapseError as error:
                    problem = error
                except self.errors as error:
                    problem = error
                if problem is None:
                    step = steps.send(result)
                    continue
                if not isinstance(problem, LapseError):
                    repeats += 1
                    try:
                        result, problem = (yield from self._repeat(step, problem, retry=retry)), None
                    except LapseError as error:
                        problem = error
                step = steps.send(result) if problem is None else steps.throw(problem)
                problem = None
        except StopIteration as done:
            value: T = done.value
            return value
        finally:
            problem = None  # it knows this frame

    def _repeat(self, step: Any, problem: Exception | None, *, retry: bool) -> Generator[Any, Any, Any]:
        """Attempt a step again after what its first attempt came to, if that may help."""
        attempt, problem = self._attempt(step, problem), None
        try:
            return (yield from attempt)
        except CallTimeoutError:
            raise
        except DatabaseUnavailableError as error:
            if not retry or limits.current().is_stopping():
                raise
            first = str(error)
        pauses: list[float] = []
        repeats = tenacity.Retrying(retry=_WORTH_IT, wait=_WAIT, stop=_stop(), sleep=pauses.append, reraise=True)
        try:
            for repeat in repeats:
                if pauses:
                    yield Pause(pauses.pop())
                try:
                    return (yield from self._attempt(step))
                except LapseError as error:
                    problem = error
                with repeat:  # only what an attempt came to, and not an end of this generator
                    raise problem
        except CallTimeoutError as error:
            # Time was up for a last attempt; why there had to be one is what helps.
            raise CallTimeoutError(f"{error}; at first, {first}") from None
        finally:
            problem = None  # it knows this frame

    def _attempt(self, step: Any, problem: Exception | None = None) -> Generator[Any, Any, Any]:
        """Attempt a step (again, after this problem), in small pieces that a stop can come between on a busy file."""
        give_up_at: float | None = None
        while True:
            try:
                if problem is None:
                    return (yield step)
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
                raise translated if limit.seconds is None else overdue("another process keeps the file locked")


def in_lapses_words(problem: Exception) -> LapseError:
    """Translate what an attempt raised into one of lapse's errors."""
    if isinstance(problem, PoolTimeoutError):
        return overdue(str(problem))
    translated = translate(problem)
    return overdue(str(translated)) if isinstance(translated, CallTimeoutError) else translated


def _stop() -> Callable[[tenacity.RetryCallState], bool]:
    limit = limits.current()
    is_late = tenacity.stop_before_delay(RETRY_TIMEOUT_SECONDS if limit.remaining is None else limit.remaining)
    return lambda state: limit.is_stopping() or is_late(state)


def overdue(reason: str) -> DatabaseUnavailableError:
    """Return the error that says why the call did not finish in time."""
    seconds = limits.current().seconds
    if seconds is None:
        return DatabaseUnavailableError(f"the database is not available: {reason}")
    return CallTimeoutError(f"not done in time (LAPSE_CALL_TIMEOUT, {seconds:g} seconds): {reason}")
