"""The stop event: it wakes every wait immediately, from a thread and from a signal handler."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time

import pytest

from lapse.shutdown import STOP_SIGNALS, Interrupted, StopEvent, exit_on_signals, stop_on_signals
from tests.support.commands import run_program


def test_a_wait_that_times_out_returns_false() -> None:
    stop_event, begin = StopEvent(), time.monotonic()
    assert not stop_event.wait(0.05)
    assert 0.04 < time.monotonic() - begin < 5
    assert not stop_event.wait(0)
    assert not stop_event.wait(-1)
    assert not stop_event.is_set()


def test_a_wait_for_an_event_that_is_set_returns_immediately() -> None:
    stop_event, begin = StopEvent(), time.monotonic()
    stop_event.set()
    stop_event.set()
    assert stop_event.wait(60)
    assert stop_event.is_set()
    assert time.monotonic() - begin < 5


def test_every_waiting_thread_is_woken() -> None:
    stop_event, woken = StopEvent(), []
    threads = [threading.Thread(target=lambda: woken.append(stop_event.wait(60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    stop_event.set()
    for thread in threads:
        thread.join(5)
    assert woken == [True, True, True]


def test_each_stop_signal_wakes_the_wait() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    for number in (signal.SIGTERM, signal.SIGINT):
        stop_event, begin = StopEvent(), time.monotonic()
        with stop_on_signals(stop_event):
            timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
            timer.start()
            assert stop_event.wait(60)
            timer.join()
        assert time.monotonic() - begin < 5
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_signal_interrupts_only_an_interruptible_block() -> None:
    stop_event = StopEvent()
    with stop_on_signals(stop_event):
        with pytest.raises(Interrupted), stop_event.interruptible():
            signal.raise_signal(signal.SIGTERM)
        assert stop_event.is_set()
        signal.raise_signal(signal.SIGTERM)  # outside of the block nothing is raised
        with pytest.raises(Interrupted), stop_event.interruptible():
            pytest.fail("a block is not entered once the event is set")


def test_work_may_complete_within_the_grace_period() -> None:
    stop_event = StopEvent()
    with stop_on_signals(stop_event):
        with stop_event.interruptible(grace_seconds=30):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0), "the timer is still running"


def test_work_is_interrupted_at_the_end_of_the_grace_period() -> None:
    stop_event, begin = StopEvent(), time.monotonic()
    with stop_on_signals(stop_event):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(Interrupted), stop_event.interruptible(grace_seconds=0.1):
            time.sleep(30)
        assert 0.1 <= time.monotonic() - begin < 5
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_further_signals_do_not_restart_the_grace_period() -> None:
    stop_event, begin = StopEvent(), time.monotonic()
    with stop_on_signals(stop_event):
        timers = [threading.Timer(0.15 * number, os.kill, (os.getpid(), signal.SIGINT)) for number in range(1, 9)]
        for timer in timers:
            timer.start()
        with pytest.raises(Interrupted), stop_event.interruptible(grace_seconds=0.3):
            time.sleep(30)
        assert time.monotonic() - begin < 1
        for timer in timers:
            timer.join()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_during_startup_exits_immediately(number: signal.Signals) -> None:
    program = f"""
import signal
from lapse.shutdown import exit_on_signals
with exit_on_signals():
    try:
        signal.raise_signal({int(number)})
    finally:
        print("still here")
"""
    result = run_program(sys.executable, "-c", program)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with exit_on_signals(), stop_on_signals(StopEvent()):
        pass
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_it_waits_in_a_process_with_more_than_1024_open_files() -> None:
    stop_event = StopEvent()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2_000, hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        assert not stop_event.wait(0.01)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
