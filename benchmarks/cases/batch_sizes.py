"""The backlog of the first figure is drained by one worker with fixed batch sizes, and with the default.

What a bigger batch gains is what each transaction costs by itself: its round trip, its plan, and its wait for the disk.
"""

from __future__ import annotations

from typing import Any

from benchmarks.bench import Bench
from benchmarks.peers import bare_pair
from benchmarks.processes import run_at_once
from benchmarks.results import Figure, Outcome, median

TITLE = "Batch sizes"
SIZES = (None, 100, 1_000, 5_000, 10_000)


def run(bench: Bench) -> Outcome:
    """Let the sizes alternate."""
    backlog = bench.main_backlog()
    rates: dict[str, list[float]] = {name: [] for name in [*map(name_of, SIZES), "bare pair"]}
    for number in bench.rounds(2):
        for size in SIZES:
            with bench.filled(backlog) as url:
                arguments = [] if size is None else [f"--batch-size={size}"]
                (found,) = run_at_once([["benchmarks.helpers.drain", *arguments]], url)
                rates[name_of(size)].append(found["ended"] / found["seconds"])
        with bench.filled(backlog) as url:
            rates["bare pair"].append(bare_pair.end_all(url).per_second)
        bench.say(f"round {number}: " + ", ".join(f"{name} {found[-1]:,.0f}/s" for name, found in rates.items()))
    bare = rates["bare pair"]
    return Outcome(
        figures=[
            Figure(
                f"batches of {name}, against the bare pair",
                median(one / other for one, other in zip(found, bare, strict=True)),
                "times",
            )
            for name, found in rates.items()
            if found is not bare
        ],
        parameters={"due": backlog.due, "rows": backlog.rows},
        raw={"per_second": rates},
    )


def name_of(size: int | None) -> str:
    """Return how a batch size is called."""
    return "the default" if size is None else f"{size:,}"


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw the rate of each size."""
    names = list(raw["per_second"])
    axes.bar(names, [median(raw["per_second"][name]) for name in names])
    axes.set(ylabel="conversations a second")
