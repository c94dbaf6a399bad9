"""All benchmarks by name, in the order in which they run and are reported."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.bench import Run

NAMES = (
    "ending",
    "batch_sizes",
    "workers",
    "table_size",
    "pinned",
    "plans",
    "message_postgresql",
    "message_sqlite",
    "wal",
    "message_statements",
    "fillfactor",
    "drain_latency",
    "lag",
    "memory",
    "idle",
    "scrape",
    "active",
    "threads",
    "deadlines",
    "before",
    "messages_lists",
    "messages_callers",
    "messages_hot",
    "messages_hour",
    "messages_beside",
    "receipts",
    "workers_before",
    "ending_before",
    "replay",
    "replay_before",
)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: how it is called, how it is measured, how it is run and drawn."""

    name: str
    title: str
    method: str
    run: Run
    plot: Callable[[Any, dict[str, Any]], None] | None


def benchmark(name: str) -> Benchmark:
    """Return the benchmark of this name.

    Raises:
        KeyError: there is none.
    """
    if name not in NAMES:
        raise KeyError(name)
    module = importlib.import_module(f"benchmarks.cases.{name}")
    return Benchmark(
        name, module.TITLE, inspect.cleandoc(module.__doc__ or ""), module.run, getattr(module, "plot", None)
    )
