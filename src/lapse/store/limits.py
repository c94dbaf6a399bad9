"""The time limit of the current call and what ends its waits early, for every wait inside it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial, wraps
from time import monotonic
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _HasCallTimeout(Protocol):
    @property
    def call_timeout_seconds(self) -> float: ...


S = TypeVar("S", bound=_HasCallTimeout)


def _never() -> bool:
    return False


class Limits(NamedTuple):
    """The limits of one call."""

    seconds: float | None = None
    """The time that the whole call may take; None: no limit."""
    deadline: float | None = None
    """The same limit as a value of `time.monotonic()`."""
    is_stopping: Callable[[], bool] = _never
    """Called between two waits for SQLite's write lock: True ends them."""

    @property
    def remaining(self) -> float | None:
        """Return the seconds that are left, at least 0; None: no limit."""
        return None if self.deadline is None else max(self.deadline - monotonic(), 0.0)


# A call runs in a context of its own, with which its limits end, in one step: an interruption may come between any two
# instructions of Python's, so also before one that would take them back, and they would be the thread's next call's.
_UNLIMITED = Limits()
_current: ContextVar[Limits] = ContextVar("lapse_limits", default=_UNLIMITED)
_get, _set = _current.get, _current.set
# Half the time of a call of the class, and in every message's way.
_limits: Callable[[tuple[float, float, Callable[[], bool]]], Limits] = partial(tuple.__new__, Limits)


def current() -> Limits:
    """Return the limits of the current call."""
    return _get()


def enter(given: Limits) -> None:
    """Make these the limits of the current context, of which nothing else is run afterwards."""
    _set(given)


def limited(call: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Decorate a method so that a whole call of it takes at most `self.call_timeout_seconds`."""

    @wraps(call)
    def limited_call(self: S, /, *arguments: P.args, **options: P.kwargs) -> T:
        seconds, context = self.call_timeout_seconds, copy_context()
        context.run(_set, _limits((seconds, monotonic() + seconds, _get().is_stopping)))
        return context.run(call, self, *arguments, **options)

    return limited_call


def limited_async(
    call: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Decorate a coroutine method as `limited` does: its time begins when it is awaited."""

    @wraps(call)
    async def limited_call(self: S, /, *arguments: P.args, **options: P.kwargs) -> T:
        seconds = self.call_timeout_seconds
        before = _current.set(_limits((seconds, monotonic() + seconds, _get().is_stopping)))
        try:
            return await call(self, *arguments, **options)
        finally:
            with suppress(ValueError):  # a coroutine that nobody awaits any more is closed wherever it is collected
                _current.reset(before)

    return limited_call


def ended_by(is_stopping: Callable[[], bool]) -> Context:
    """Return a context in which a stop ends the waits of the work run in it, and of no other."""
    context = copy_context()
    context.run(_set, _get()._replace(is_stopping=is_stopping))
    return context
