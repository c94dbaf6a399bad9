"""Senders of messages in groups as processes: killed and replaced, and at the end all that they were told."""

from __future__ import annotations

import json
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.chaos.group_sender import Orders, spelled
from tests.chaos.noting_process import PATIENCE_SECONDS, NotingProcess


@dataclass(frozen=True)
class Sent:
    """A message, and what its sender was told; None where it was killed before it heard."""

    line: dict[str, Any]
    answer: dict[str, Any] | None

    @property
    def is_acknowledged(self) -> bool:
        """Tell whether it came back with a result."""
        return self.answer is not None and "outcome" in self.answer

    @property
    def error(self) -> str | None:
        """Return the error that reached the caller, if one did."""
        return None if self.answer is None else self.answer.get("error")


class _Process(NotingProcess):
    def __init__(self, orders: Orders, folder: Path) -> None:
        super().__init__("tests.chaos.group_sender", spelled(orders), folder / f"{orders.name}.jsonl")
        self.orders = orders

    def end(self, number: int) -> list[Sent]:
        """Wait for the end by this signal, and return what it sent."""
        return sent_in(self.notes_at_end(number))


class Senders:
    """Running senders; all that they sent, once they have ended."""

    def __init__(self, orders: Sequence[Orders], folder: Path) -> None:
        self.sent: list[Sent] = []
        self._folder, self._generation = folder, 0
        self._running = [_Process(one, folder) for one in orders]

    def wait_until_sending(self) -> None:
        """Wait until each of them has begun."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(process.out.stat().st_size for process in self._running):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def kill_one(self, chance: random.Random) -> None:
        """Kill one of them and start another in its place."""
        self._generation += 1
        place = chance.randrange(len(self._running))
        ended = self._running[place]
        self.sent += ended.end(signal.SIGKILL)
        name = f"{ended.orders.name.partition('.')[0]}.{self._generation}"
        self._running[place] = _Process(replace(ended.orders, name=name), self._folder)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Let them finish the calls in hand."""
        for process in self._running:
            process.tell(number)
        while self._running:
            self.sent += self._running.pop().end(number)


@contextmanager
def running_senders(orders: Sequence[Orders]) -> Iterator[Senders]:
    """Start a process for each of these orders."""
    with tempfile.TemporaryDirectory() as folder:
        senders = Senders(orders, Path(folder))
        try:
            senders.wait_until_sending()
            yield senders
        finally:
            senders.stop(signal.SIGKILL)


def sent_in(text: str) -> list[Sent]:
    """Return what is in a journal, whose last line may be without its end."""
    begun: dict[str, dict[str, Any]] = {}
    answers: dict[str, dict[str, Any]] = {}
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            entry = json.loads(line)
            (begun if "begins" in entry else answers)[entry["id"]] = entry
    return [Sent(line, answers.get(message_id)) for message_id, line in begun.items()]
