"""Writers as processes: started together, killed and replaced, and at the end all that they were told."""

from __future__ import annotations

import json
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.chaos.noting_process import PATIENCE_SECONDS, NotingProcess
from tests.chaos.writer import Orders, spelled

FIRST_PAIR = 1_000_000
"""Where the writers' own pairs begin: far from those of a backlog."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a writer: what it did, to which pair, and the answer; none where the writer was killed meanwhile."""

    writer: str
    did: str
    pair: int
    answer: dict[str, Any] | None = None

    @property
    def is_acknowledged(self) -> bool:
        """Tell whether it came back with a conversation."""
        return self.answer is not None and "conv_id" in self.answer

    @property
    def error(self) -> str | None:
        """Return the error that reached the caller, if one did."""
        return None if self.answer is None or "error" not in self.answer else str(self.answer["error"])


class _Process(NotingProcess):
    """One writer."""

    def __init__(self, orders: Orders, folder: Path) -> None:
        super().__init__("tests.chaos.writer", spelled(orders), folder / f"writer-{orders.name}.jsonl")
        self.orders = orders

    def end(self, number: int) -> list[Call]:
        """Send the signal, wait for the end, and return its calls."""
        return list(calls_in(self.notes_at_end(number), self.orders.name))


class Writers:
    """Running writers; all their calls, once they have ended."""

    def __init__(self, orders: list[Orders], folder: Path) -> None:
        self.calls: list[Call] = []
        self._folder = folder
        self._generation = 0
        self._running = [_Process(of_one, folder) for of_one in orders]

    def wait_for_calls(self) -> None:
        """Wait until each of them has begun."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(process.out.stat().st_size for process in self._running):
            assert time.monotonic() < deadline, [process.complaints for process in self._running]
            time.sleep(0.05)

    def kill_one(self, chance: random.Random) -> None:
        """Kill one of them and start another in its place."""
        self._generation += 1
        place = chance.randrange(len(self._running))
        ended = self._running[place]
        self.calls += ended.end(signal.SIGKILL)
        name = f"{ended.orders.name.partition('.')[0]}.{self._generation}"
        self._running[place] = _Process(replace(ended.orders, name=name), self._folder)

    def stop(self) -> None:
        """Let them finish the call in hand; the second time nothing is left to do."""
        while self._running:
            self.calls += self._running.pop().end(signal.SIGTERM)

    def kill(self) -> None:
        """End what still runs, at once."""
        while self._running:
            self._running.pop().end(signal.SIGKILL)


@contextmanager
def running_writers(url: str, number: int, chance: random.Random, pairs: int = 50, **orders: Any) -> Iterator[Writers]:
    """Start so many writers, each with as many pairs of its own; see `Orders` for the rest."""
    names = [f"{chance.randrange(2**32):08x}" for _ in range(number)]
    with tempfile.TemporaryDirectory() as folder:
        writers = Writers(
            [
                Orders(url=url, name=name, first_pair=FIRST_PAIR + place * pairs, pairs=pairs, **orders)
                for place, name in enumerate(names)
            ],
            Path(folder),
        )
        try:
            writers.wait_for_calls()
            yield writers
        finally:
            writers.kill()


def calls_in(text: str, writer: str) -> Iterator[Call]:
    """Yield the calls of a writer's notes; the last one may be without its answer, the last line without its end."""
    begun: Call | None = None
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        entry = json.loads(line)
        if "begins" in entry:
            begun = Call(writer=writer, did=entry["begins"], pair=entry["pair"])
        else:
            assert begun is not None
            yield replace(begun, answer=entry)
            begun = None
    if begun is not None:
        yield begun
