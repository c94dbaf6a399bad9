"""The limits of a call end with it, whatever instruction it is interrupted at."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextvars import copy_context
from types import FrameType
from typing import Any

import pytest

from lapse.store.limits import Limits, current, ended_by, limited, limited_async


class SoftLimitError(Exception):
    """The time limit of a task queue."""


class Caller:
    """Something with a limited call."""

    call_timeout_seconds = 60.0

    @limited
    def call(self) -> Limits:
        """Return the limits inside."""
        return current()

    @limited_async
    async def awaited(self, nested: Caller | None = None) -> Limits:
        """Return the limits inside, after another call with its own."""
        if nested is not None:
            await nested.awaited()
        await asyncio.sleep(0)
        return current()

    def stopped(self) -> Limits:
        """Return the limits inside work that a stop ends."""
        return ended_by(lambda: True).run(current)


def interrupted_at(step: int, call: Callable[[], object]) -> bool:
    """Raise before the call or return of this number, of Python's or of C's; tell whether there was one."""
    seen, is_inside = 0, True

    def strike(_frame: FrameType, _event: str, _argument: Any) -> None:
        nonlocal seen
        if is_inside and seen == step:
            raise SoftLimitError
        seen += is_inside

    sys.setprofile(strike)
    try:
        call()
    except SoftLimitError:
        return True
    finally:
        is_inside = False
        sys.setprofile(None)
    return False


@pytest.mark.parametrize("name", ["call", "stopped"])
def test_an_interrupted_call_leaves_no_limits_to_the_next_one(name: str) -> None:
    caller, struck = Caller(), 0
    for step in range(200):
        if not interrupted_at(step, getattr(caller, name)):
            break
        struck += 1
        assert current() == Limits()
    assert struck >= 6


def test_a_call_has_its_own_time() -> None:
    inside = ended_by(lambda: True).run(Caller().call)
    assert inside.seconds == 60
    assert inside.remaining is not None
    assert 59 < inside.remaining <= 60
    assert current() == Limits()


def test_a_call_is_ended_by_the_stop_around_it() -> None:
    assert ended_by(lambda: True).run(Caller().call).is_stopping()
    assert not current().is_stopping()


def test_an_awaited_call_has_its_own_time_and_leaves_none_to_its_task() -> None:
    quick = Caller()
    quick.call_timeout_seconds = 1.0

    async def run() -> None:
        outer, inner = await asyncio.gather(Caller().awaited(quick), quick.awaited(Caller()))
        assert (outer.seconds, inner.seconds) == (60, 1)
        assert (await Caller().awaited()).seconds == 60
        assert current() == Limits()
        cancelled = asyncio.create_task(Caller().awaited())
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert current() == Limits()

    asyncio.run(run())


def test_the_time_of_an_awaited_call_begins_when_it_is_awaited() -> None:
    async def run() -> Limits:
        later = Caller().awaited()
        await asyncio.sleep(0.05)
        return await later

    limits = asyncio.run(run())
    assert limits.remaining is not None
    assert limits.remaining > 59.9


def test_a_call_that_is_abandoned_is_closed_in_any_context() -> None:
    abandoned = Caller().awaited()
    copy_context().run(abandoned.send, None)
    abandoned.close()
    assert current() == Limits()
