"""The stop flag: it wakes waits at once, from a thread and from a signal handler."""

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


def test_a_wait_ends_after_its_time_and_says_that_nothing_came() -> None:
    flag, begin = StopEvent(), time.monotonic()
    assert not flag.wait(0.05)
    assert 0.04 < time.monotonic() - begin < 5
    assert not flag.wait(0)
    assert not flag.wait(-1)
    assert not flag.is_set()


def test_a_flag_that_is_up_is_not_waited_for() -> None:
    flag, begin = StopEvent(), time.monotonic()
    flag.set()
    flag.set()
    assert flag.wait(60)
    assert flag.is_set()
    assert time.monotonic() - begin < 5


def test_every_waiting_thread_is_woken() -> None:
    flag, woken = StopEvent(), []
    threads = [threading.Thread(target=lambda: woken.append(flag.wait(60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    flag.set()
    for thread in threads:
        thread.join(5)
    assert woken == [True, True, True]


def test_each_stop_signal_wakes_the_wait_and_the_old_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    for number in (signal.SIGTERM, signal.SIGINT):
        flag, begin = StopEvent(), time.monotonic()
        with stop_on_signals(flag):
            timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
            timer.start()
            assert flag.wait(60)
            timer.join()
        assert time.monotonic() - begin < 5
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_signal_interrupts_only_what_may_be_interrupted() -> None:
    flag = StopEvent()
    with stop_on_signals(flag):
        with pytest.raises(Interrupted), flag.interruptible():
            signal.raise_signal(signal.SIGTERM)
        assert flag.is_set()
        signal.raise_signal(signal.SIGTERM)  # outside of it nothing is raised
        with pytest.raises(Interrupted), flag.interruptible():
            pytest.fail("a stop that came before is not worked against")


def test_work_that_a_stop_is_patient_with_may_come_to_its_end() -> None:
    flag = StopEvent()
    with stop_on_signals(flag):
        with flag.interruptible(grace_seconds=30):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0), "no alarm is left behind"


def test_patience_has_an_end() -> None:
    flag, begin = StopEvent(), time.monotonic()
    with stop_on_signals(flag):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(Interrupted), flag.interruptible(grace_seconds=0.1):
            time.sleep(30)
        assert 0.1 <= time.monotonic() - begin < 5
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_impatience_does_not_begin_the_patience_anew() -> None:
    flag, begin = StopEvent(), time.monotonic()
    with stop_on_signals(flag):
        timers = [threading.Timer(0.15 * number, os.kill, (os.getpid(), signal.SIGINT)) for number in range(1, 9)]
        for timer in timers:
            timer.start()
        with pytest.raises(Interrupted), flag.interruptible(grace_seconds=0.3):
            time.sleep(30)
        assert time.monotonic() - begin < 1
        for timer in timers:
            timer.join()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_while_nothing_is_open_yet_ends_the_process_on_the_spot(number: signal.Signals) -> None:
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


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with exit_on_signals(), stop_on_signals(StopEvent()):
        pass
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_it_waits_in_a_process_with_many_open_files() -> None:
    flag = StopEvent()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2_000, hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        assert not flag.wait(0.01)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
