"""What benchmarks do beside their own work: it fails aloud."""

from __future__ import annotations

import threading

import pytest

from benchmarks.background import Background


def fail(over: threading.Event) -> None:
    over.wait()
    raise ValueError("in a thread")


def test_what_goes_wrong_in_a_thread_goes_wrong_for_the_benchmark() -> None:
    with pytest.raises(ValueError, match="in a thread"), Background(threading.Event.wait, fail):
        pass


def test_the_benchmarks_own_failure_comes_first() -> None:
    with pytest.raises(KeyError), Background(fail):
        raise KeyError
