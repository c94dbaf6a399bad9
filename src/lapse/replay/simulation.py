"""Virtual time: messages at their moments, and every deadline acted on at its own, as by a worker never late."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice

from lapse.checked_message import check_message
from lapse.lifecycle import whole_seconds
from lapse.messages import Outcome
from lapse.replay.message_log import FIRST_YEAR, LoggedMessage
from lapse.service import ConversationService
from lapse.settings import idle_timeout_seconds
from lapse.store.operations.messages import MAX_GROUP
from lapse.store.operations.virtual_time import GROUP, finish_virtual_time, record_in_virtual_time


class VirtualClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        """Begin before any message, but not in the calendar's first days, which time zones move out of it."""
        self.now = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the present moment."""
        return self.now


def replay(
    service: ConversationService,
    clock: VirtualClock,
    messages: Iterable[LoggedMessage],
    on_messages: Callable[[int], None] = lambda _number: None,
) -> int:
    """Record the messages, which are in order of time, and act on all deadlines until nothing is open.

    Pairs do not concern each other: messages are recorded in groups, and before each what was due of its pair.

    Args:
        service: has an empty database, and goes by `clock`.
        clock: follows the messages.
        messages: in order of time.
        on_messages: called after each group with the number of its messages.

    Returns:
        The number of messages that counted: all but copies.
    """
    database, settings = service.database, service.settings
    idle_seconds = idle_timeout_seconds(settings.idle_timeout_minutes)
    expiration_seconds, kinds = whole_seconds(settings.expiration), database.shape().mapping.kinds
    counted = 0
    with _no_collector():
        for group in _groups(messages):
            checked = [check_message(one.as_message(), kinds, expiration_seconds, idle_seconds) for one in group]
            clock.now = group[-1].at
            results = database.run(record_in_virtual_time, checked)
            counted += sum(result is not None and result.outcome is not Outcome.COPY for result in results)
            on_messages(len(group))
        while database.run(finish_virtual_time, idle_seconds, MAX_GROUP):
            pass
    return counted


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep Python from looking for cycles: a quarter of the time, and what is made of messages has none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _groups(messages: Iterable[LoggedMessage]) -> Iterator[list[LoggedMessage]]:
    remaining = iter(messages)
    while group := list(islice(remaining, GROUP)):
        yield group
