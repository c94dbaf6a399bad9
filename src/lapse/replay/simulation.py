"""Virtual time: messages at their moments, and every deadline acted on at its own, as by a worker never late."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from lapse.replay.message_log import FIRST_YEAR, LoggedMessage
from lapse.service import ConversationService
from lapse.validation import MAX_LIMIT
from lapse.worker import TaskResult, sweep_tasks

# Deadlines are strict: the first moment at which one has passed.
_TICK = timedelta(microseconds=1)


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
    on_message: Callable[[], None] = lambda: None,
) -> None:
    """Send the messages, which are in order of time, and move the clock until nothing is open.

    The service has an empty database, and goes by `clock`. `on_message` is called after each message.
    """
    deadlines = _Deadlines(service, clock)
    for message in messages:
        deadlines.act_before(message.at)
        clock.now = message.at
        service.record_message(*message[1:])
        on_message()
    deadlines.act_before(None)


class _Deadlines:
    """Acts on deadlines in their order."""

    def __init__(self, service: ConversationService, clock: VirtualClock) -> None:
        self._service = service
        self._clock = clock
        self._tasks = sweep_tasks(service, batch_size=MAX_LIMIT).values()
        settings = service.settings
        self._shortest = timedelta(minutes=min(settings.idle_timeout_minutes, settings.expiration_minutes))
        self._none_before = clock.now

    def act_before(self, moment: datetime | None) -> None:
        """Run the tasks at every deadline strictly before `moment`; None means until nothing is open."""
        while moment is None or self._none_before < moment:
            deadlines = self._service.next_deadlines()
            earliest = deadlines.earliest
            # Whatever a later message sets is due no sooner than the shorter timeout after now.
            soonest_new = self._clock.now + self._shortest
            self._none_before = min(earliest or soonest_new, soonest_new)
            if earliest is None or (moment is not None and earliest >= moment):
                return
            self._clock.now = max(self._clock.now, earliest + _TICK)
            for task in self._tasks:
                if task.seconds_to_work(replace(deadlines, now=self._clock.now)) < 0:
                    for _ in task.work(TaskResult(task=task.name)):
                        pass  # never too late to go on
