"""Resident memory of `lapse worker --http` over 10,000 cycles, each with conversations to end.

With `--min-wait 0` a cycle begins as soon as something is due. First the worker drains 200,000 due conversations, as
after an outage; then 400 a second come due, half by their expiry and half by their idle timeout, in one cycle after the
other. `/metrics` is asked every 15 cycles, `/livez` and `/readyz` every 10, which is how often Prometheus and
Kubernetes would ask a worker that makes a cycle a second; each on a new connection.

About ten times a second `/health` says which cycle it is, and `/proc/PID/smaps_rollup` what is resident, page by page.
The first 1,000 cycles are for warming up. The slope is that of least squares over all samples of the 10,000 after them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from statistics import linear_regression
from typing import Any

from benchmarks.arrivals import arrivals
from benchmarks.bench import Bench
from benchmarks.processes import PATIENCE_SECONDS, Process, ProcessError
from benchmarks.results import Figure, Goal, Outcome
from benchmarks.watching import ask, highest_resident_mib, resident_mib, watched_worker

TITLE = "Memory of the worker"
CYCLES, WARM_UP_CYCLES = 10_000, 1_000
PER_SECOND = 400
SAMPLE_EVERY_SECONDS = 0.1
ASKED_EVERY_CYCLES = {"/metrics": 15, "/livez": 10, "/readyz": 10}
MOST_MIB = 90


@dataclass
class Watch:
    """What was seen of a worker."""

    cycles: list[int] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ASKED_EVERY_CYCLES, 0))
    at_work: set[int] = field(default_factory=set)
    """Cycles that ended conversations."""
    ended: int = 0
    highest_mib: float = 0.0

    def hear(self, line: dict[str, Any]) -> None:
        """Take a line of the worker's log."""
        if line["event"] == "task processed":
            self.at_work.add(line["cycle"])
            self.ended += line["count"]

    def wait_until_ended(self, number: int) -> None:
        """Wait until the log has told of so many.

        Raises:
            ProcessError: it did not for long.
        """
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while self.ended < number:
            time.sleep(SAMPLE_EVERY_SECONDS)
            if time.monotonic() > give_up_at:
                raise ProcessError(f"the worker has ended only {self.ended} conversations")

    def look(self, worker: Process, port: int) -> int:
        """Take a sample, ask what it is time for, and return the cycle."""
        cycle: int = json.loads(ask(port, "/health"))["cycle_count"]
        self.cycles.append(cycle)
        self.mib.append(round(resident_mib(worker.pid), 3))
        for path, every in ASKED_EVERY_CYCLES.items():
            if self.asked[path] * every < cycle:
                ask(port, path)
                self.asked[path] += 1
        return cycle


def run(bench: Bench) -> Outcome:
    """Watch a worker through its cycles."""
    backlog = bench.main_backlog()
    warm_up, cycles = bench.rows(WARM_UP_CYCLES, least=20), bench.rows(CYCLES)
    watch = Watch()
    with bench.filled(backlog) as url, watched_worker("--min-wait=0", url=url) as (worker, port):
        at_start = resident_mib(worker.pid)
        # From now on: with nothing due a worker waits for the interval, since no new conversation is due so soon.
        with arrivals(url, PER_SECOND), worker.heard_by(watch.hear):
            watch.wait_until_ended(backlog.due)
            begin = time.monotonic()
            follow(watch, worker, port, warm_up + cycles)
            seconds = time.monotonic() - begin
            watch.highest_mib = highest_resident_mib(worker.pid)
    place = next(place for place, cycle in enumerate(watch.cycles) if cycle > warm_up)
    bench.say(f"{watch.cycles[-1]:,} cycles, {watch.cycles[-1] / seconds:.0f} a second")
    return Outcome(
        figures=figures(watch, place, at_start),
        parameters={"cycles": cycles, "warm_up_cycles": warm_up, "due_per_second": PER_SECOND, "due": backlog.due},
        raw={
            "cycles": watch.cycles,
            "resident_mib": watch.mib,
            "warm_up_cycles": warm_up,
            "asked": watch.asked,
            "seconds": seconds,
        },
    )


def follow(watch: Watch, worker: Process, port: int, last_cycle: int) -> None:
    """Look at the worker until it has made so many cycles."""
    give_up_at = time.monotonic() + 2 * PATIENCE_SECONDS
    while watch.look(worker, port) < last_cycle:
        time.sleep(SAMPLE_EVERY_SECONDS)
        if time.monotonic() > give_up_at:
            raise ProcessError(f"the worker has made only {watch.cycles[-1]} cycles")


def figures(watch: Watch, place: int, at_start: float) -> list[Figure]:
    """Return the memory from this sample on, and what it was before and at most."""
    cycles, mib = watch.cycles[place:], watch.mib[place:]
    slope = linear_regression(cycles, mib).slope if len(set(cycles)) > 1 else 0.0
    at_work = sum(cycles[0] < cycle <= cycles[-1] for cycle in watch.at_work)
    return [
        Figure("resident memory, the highest of all samples", max(watch.mib), "MiB", Goal(MOST_MIB, at_most=True)),
        Figure("slope of the resident memory over 10,000 cycles", slope * CYCLES, "MiB", Goal(1, at_most=True)),
        Figure("resident memory when the worker has begun", at_start, "MiB"),
        Figure("after the backlog", watch.mib[0], "MiB"),
        Figure("after warming up", mib[0], "MiB"),
        Figure("at the end", mib[-1], "MiB"),
        Figure("the highest at any moment, by the kernel's own mark (VmHWM)", watch.highest_mib, "MiB"),
        Figure("cycles that ended conversations", 100 * at_work / max(cycles[-1] - cycles[0], 1), "%"),
    ]


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw the memory over the cycles, with the goal."""
    axes.plot(raw["cycles"], raw["resident_mib"], label="resident")
    axes.axhline(MOST_MIB, linestyle=":", color="tab:red", label="goal")
    axes.axvspan(0, raw["warm_up_cycles"], alpha=0.1, label="warming up")
    axes.set(xlabel="cycle", ylabel="MiB", xlim=(0, raw["cycles"][-1]), ylim=(0, 1.1 * MOST_MIB))
    axes.legend(fontsize="small", loc="lower right")
