"""Two versions of lapse and several ways to send messages, in turns, on databases with the same conversations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from benchmarks.backlogs import CHANNEL, OWNERS, Backlog, live_customers
from benchmarks.bench import Bench
from benchmarks.processes import Process, running
from benchmarks.results import Figure, Goal, median
from benchmarks.versions import UNGROUPED, sources

T = TypeVar("T")
ONE_BY_ONE = "benchmarks.helpers.one_version"
GROUPS = "benchmarks.helpers.groups"
Found = dict[str, list[dict[str, Any]]]
"""What each side found in each of its turns."""


def take_turns(rounds: range, turns: Mapping[str, Callable[[], T]], found: dict[str, list[T]]) -> None:
    """Let each have its turn in each round, and add what they find; the order changes from round to round."""
    for number in rounds:
        for name in sorted(turns, reverse=number % 2 == 0):
            found[name].append(turns[name]())


@contextmanager
def contestants(bench: Bench, dialect: str, number: int, name: str) -> Iterator[dict[str, Process]]:
    """Hand out three processes: `before` and `now`, which send one by one, and `groups`, on the database of `now`.

    Args:
        bench: the run.
        dialect: of the databases, of which each version has its own.
        number: of the open conversations in each; on PostgreSQL nine times as many closed ones are beside them.
        name: of the files.
    """
    versions = sources(bench.folder, UNGROUPED)
    backlog = Backlog(due=0, between=9 * number, live=number)
    customers = range(number) if dialect == "sqlite" else live_customers(backlog)
    arguments = ("--customers", str(customers.start), str(customers.stop), f"--owners={OWNERS}", f"--channel={CHANNEL}")
    with ExitStack() as stack:
        urls = {
            side: f"sqlite:///{bench.folder / f'{name}-{side}.db'}"
            if dialect == "sqlite"
            else stack.enter_context(bench.filled(backlog, source))
            for side, source in versions.items()
        }
        processes = {
            side: stack.enter_context(running(ONE_BY_ONE, *arguments, url=urls[side], source=source))
            for side, source in versions.items()
        }
        for process in processes.values():
            process.hear()
        groups = processes["groups"] = stack.enter_context(running(GROUPS, *arguments, url=urls["now"]))
        groups.hear()
        yield processes


def turn_of(process: Process, *words: object) -> Callable[[], dict[str, Any]]:
    """Return what tells a process to do something, and hears what it found."""

    def turn() -> dict[str, Any]:
        process.tell(" ".join(map(str, words)))
        return process.hear()

    return turn


def nothing_found() -> Found:
    """Return a place for what turns find."""
    return defaultdict(list)


def rate_of(found: Found, side: str) -> float:
    """Return messages a second, the median over turns."""
    return median(1 / turn["seconds"] for turn in found[side])


def times(found: Found, side: str, against: str) -> float:
    """Return how many times as many messages a second as the other side: the median over rounds."""
    pairs = zip(found[side], found[against], strict=True)
    return median(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs)


def compared(name: str, found: Found, side: str, against: str, goal: float | None = None) -> Figure:
    """Return the figure of `times`, at least the goal where there is one."""
    return Figure(name, times(found, side, against), "times", None if goal is None else Goal(goal))


def in_seconds(found: Mapping[str, Found]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return every number, to be kept."""
    return {what: dict(of) for what, of in found.items()}
