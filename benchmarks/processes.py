"""Processes of their own: lapse's command, and helpers that prepare, say so, and begin when they are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks.machine import ROOT

PATIENCE_SECONDS = 300
NOW = ROOT / "src"
"""The source of this version of lapse."""
_SETTINGS = ("BACKGROUND_TASK_", "CONVERSATION_", "PG")


class ProcessError(Exception):
    """A process did not do what it was to do."""


def forget_settings() -> None:
    """Take lapse's and libpq's settings out of the environment: what is measured are the defaults."""
    for name in list(os.environ):
        if name in {"DATABASE_URL", "LOG_LEVEL", "LAPSE_HTTP", "NOTIFY_SOCKET"} or name.startswith(_SETTINGS):
            del os.environ[name]


class Process:
    """A running process that writes a line of JSON at a time."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        """Use a started one."""
        self._process = process
        self._errors = errors

    @property
    def pid(self) -> int:
        """Return its number."""
        return self._process.pid

    def tell(self, word: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Return its next line.

        Raises:
            ProcessError: it ended without one, or said nothing for long.
        """
        assert self._process.stdout is not None
        watch = threading.Timer(PATIENCE_SECONDS, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            self._errors.seek(0)
            raise ProcessError(f"{self._process.args!r} ended early: {self._errors.read()[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def hear_event(self, event: str) -> dict[str, Any]:
        """Return its next log line of this event."""
        while True:
            line = self.hear()
            if line.get("event") == event:
                return line

    @contextmanager
    def heard_by(self, listener: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """Read its lines as they come, so that it never waits for its reader; in the end it is stopped."""
        stdout = self._process.stdout
        assert stdout is not None

        def listen() -> None:
            for line in stdout:
                listener(json.loads(line))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGTERM)
            thread.join(PATIENCE_SECONDS)

    def stop(self) -> list[dict[str, Any]]:
        """Ask it to stop, wait for it, and return the lines that were not read yet."""
        self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate(timeout=PATIENCE_SECONDS)
        return [json.loads(line) for line in out.splitlines()]


@contextmanager
def running(*command: str, url: str, source: Path = NOW) -> Iterator[Process]:
    """Run a Python module with the lapse of this source and its default settings on this database, then stop it."""
    environment = {**os.environ, "DATABASE_URL": url, "PYTHONPATH": f"{source}{os.pathsep}{ROOT}"}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        ) as process,
    ):
        try:
            yield Process(process, errors)
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def running_worker(*arguments: str, url: str, source: Path = NOW) -> Iterator[Process]:
    """Run `lapse worker`."""
    with running("lapse", "worker", *arguments, url=url, source=source) as process:
        yield process


def run_at_once(commands: Sequence[Sequence[str]], url: str, source: Path = NOW) -> list[dict[str, Any]]:
    """Start helpers, let them begin together once all are ready, and return what each of them found."""
    with ExitStack() as stack:
        processes = [stack.enter_context(running(*command, url=url, source=source)) for command in commands]
        for process in processes:
            process.hear()
        for process in processes:
            process.tell("go")
        return [process.hear() for process in processes]
