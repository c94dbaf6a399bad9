"""The command `lapse` as its users run it: a process of its own, in an environment of which a test knows every word."""

from __future__ import annotations

import functools
import io
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO, Any
from unittest import mock

import pytest

from tests.support.fork_server import ForkedProcess, ForkServer

LAPSE = (sys.executable, "-m", "lapse")
_INHERITED = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a process's whole environment: nothing of the developer's settings but what a program needs to start."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # A leak of a file or a connection is written to standard error, which the tests look at.
    return {**inherited, "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "error::ResourceWarning", **(env or {})}


@functools.cache
def _fork_server() -> ForkServer | None:
    """Return what starts processes of the command in a tenth of the time, where there is that."""
    return ForkServer(environment()) if hasattr(os, "pidfd_open") else None


def start_lapse(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = LAPSE,
    stdout: IO[str] | None = None,
    stderr: IO[str],
) -> ForkedProcess | subprocess.Popen[str]:
    """Start the command in the test's folder; what it prints goes into a pipe where there is no file for it."""
    variables, server = environment(env), _fork_server()
    if server and command == LAPSE and server.can_start(variables):
        return server.start([str(argument) for argument in arguments], variables, stdout, stderr)
    return subprocess.Popen(
        [*command, *arguments],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=stdout or subprocess.PIPE,
        stderr=stderr,
        encoding="utf-8",
    )


def run_lapse(
    *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run the command in the test's folder and wait for its end."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as stdout,
        tempfile.TemporaryFile("w+", encoding="utf-8") as stderr,
        start_lapse(*arguments, env=env, stdout=stdout, stderr=stderr) as process,
    ):
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(["lapse", *map(str, arguments)], code, stdout.read(), stderr.read())


def run_program(
    *command: str | Path, env: Mapping[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a program in the test's folder and wait for its end."""
    return subprocess.run(
        command,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


# Root may write where nobody may: a process gives up these two of its powers, to go past rights to write and to read.
_POWERLESS = """
import ctypes, os, runpy, sys
if os.getuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for place in (0, 1, 2):
        data[place] &= ~0b110
    assert libc.capset(header, data) == 0
runpy.run_module("lapse", run_name="__main__", alter_sys=True)
"""


def run_powerless(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a process that may write and read only what the files' permissions say, whoever it is."""
    return run_program(sys.executable, "-c", _POWERLESS, *arguments)


def error_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    """Check that the command failed as it should, saying one line only, and return the line without its prefix."""
    assert (result.returncode, result.stdout) == (code, ""), result
    assert result.stderr.endswith("\n"), result
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("lapse: "), result.stderr
    return lines[0].removeprefix("lapse: ")


class RunningLapse:
    """A running `lapse worker`, whose log lines are read as they come."""

    def __init__(self, process: ForkedProcess | subprocess.Popen[str], errors: IO[str]) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self._errors = errors
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, event: str, timeout: float = 20, **fields: object) -> dict[str, Any]:
        """Return the next log line of this event, with these fields."""
        return self.wait_for_line({"event": event, **fields}, timeout)

    def wait_for_line(self, fields: Mapping[str, object], timeout: float = 20) -> dict[str, Any]:
        """Return the next log line with these fields."""
        deadline, wanted = time.monotonic() + timeout, fields.get("event", dict(fields))
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise AssertionError(f"no {wanted!r} in {timeout} seconds, but {self.log}\n{self.stderr}") from None
            if line is None:
                raise AssertionError(f"the worker ended without {wanted!r}: {self.log}\n{self.stderr}")
            self._take(line)
            if fields.items() <= self.log[-1].items():
                return self.log[-1]

    def stop(self, number: int, timeout: float = 20) -> float:
        """Send the signal, wait for the end, and return the seconds in between."""
        begin = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout)
        seconds = time.monotonic() - begin
        self._reader.join(timeout)
        while (line := self._lines.get(timeout=timeout)) is not None:
            self._take(line)
        return seconds

    def join(self) -> None:
        """Read what a process that has ended has left."""
        self._reader.join()

    def lines(self) -> list[dict[str, Any]]:
        """Return all log lines so far, without waiting for more."""
        with suppress(queue.Empty):
            while (line := self._lines.get_nowait()) is not None:
                self._take(line)
            self._lines.put(None)  # the end stays the end
        return self.log

    @property
    def stderr(self) -> str:
        """Return what was written to standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def _take(self, line: str) -> None:
        # A kill may come in the middle of a line.
        if line.endswith("\n") or self.process.returncode != -signal.SIGKILL:
            self.log.append(json.loads(line))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)


@contextmanager
def running_lapse(
    *arguments: str | Path, env: Mapping[str, str] | None = None, command: Sequence[str] = LAPSE
) -> Iterator[RunningLapse]:
    """Start the command and hand it out while it runs; whatever the test does, it is gone afterwards."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        start_lapse(*arguments, env=env, command=command, stderr=errors) as process,
    ):
        running = RunningLapse(process, errors)
        try:
            yield running
        finally:
            process.kill()
            running.join()


def run_here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command inside this process: for tables of cases, where a process each would cost a second each."""
    from lapse.cli import main

    command, out, err = ["lapse", *map(str, arguments)], io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with (
        mock.patch.object(sys, "argv", command),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    code = end.value.code or 0
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
