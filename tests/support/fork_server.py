"""Processes of the command, forked from one that has imported lapse: the program that forks, and what tests call."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

MAX_REQUEST_BYTES = 1_000_000
NEEDS_OWN_START = ("PYTHON", "LC_", "LD_")
"""How variables begin that Python reads when it starts."""


# --- the side of the tests ----------------------------------------------------------------------------------------


class ForkedProcess:
    """A process of the command; it has what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, status: socket.socket, stdout: IO[str] | None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return how it ended, None if it has not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return how it was."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = os.waitstatus_to_exitcode(int(self._status.recv(32)))
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired("lapse", timeout or 0) from None
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> ForkedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.stdout is not None:
            self.stdout.close()
        self.wait()


class ForkServer:
    """The process that forks."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(other.fileno())],
                env=environment,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    def can_start(self, environment: Mapping[str, str]) -> bool:
        """Tell whether a process with this environment is the same as one that Python starts."""
        return all(
            environment.get(name) == self._environment.get(name)
            for name in {*environment, *self._environment}
            if name.startswith(NEEDS_OWN_START)
        )

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], stdout: IO[str] | None, stderr: IO[str]
    ) -> ForkedProcess:
        """Start the command with these arguments; without a file for its output that can be read from the process."""
        status, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader = None
        with others, contextlib.ExitStack() as stack:
            if stdout is None:
                read, write = os.pipe()
                stack.callback(os.close, write)
                reader = os.fdopen(read, encoding="utf-8")
            else:
                write = stdout.fileno()
            request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
            files = [write, stderr.fileno(), others.fileno()]
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            pid = int(self._socket.recv(32))
        return ForkedProcess(pid, status, reader)

    def close(self) -> None:
        """End it; what it has started runs on."""
        self._socket.close()
        self._process.wait()


# --- the side of the program --------------------------------------------------------------------------------------


def _import_all() -> None:
    import lapse

    for module in pkgutil.walk_packages(lapse.__path__, "lapse."):
        if "__main__" not in module.name and ".migrations." not in module.name:
            importlib.import_module(module.name)
    for name in ("alembic.command", "rich.console", "waitress"):
        importlib.import_module(name)


def _serve(requests: socket.socket) -> list[str]:
    """Fork for each request. Returns, with the arguments, in the forked processes only."""
    with selectors.DefaultSelector() as ends:
        ends.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in ends.select():
                if key.fileobj is not requests:
                    _tell_of_end(ends, key)
                    continue
                message, files, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 3)
                if not message:
                    sys.exit()
                pid = os.fork()
                if not pid:
                    for end in [end for end in ends.get_map().values() if end.data]:
                        os.close(end.fd)
                        end.data[1].close()
                    requests.close()
                    return _become(json.loads(message), files)
                requests.send(str(pid).encode())
                status = socket.socket(fileno=files.pop())
                ends.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))
                for file in files:
                    os.close(file)


def _tell_of_end(ends: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    pid, status = key.data
    _, code = os.waitpid(pid, 0)
    with contextlib.suppress(OSError), status:
        status.send(str(code).encode())
    ends.unregister(key.fileobj)
    os.close(key.fd)


def _become(request: dict[str, Any], files: list[int]) -> list[str]:
    stdout, stderr, status = files
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for file in (stdout, stderr, status):
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    sys.path.insert(0, request["folder"])
    return list(request["arguments"])


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    _import_all()
    gc.collect()
    gc.freeze()
    sys.argv = ["lapse", *_serve(socket.socket(fileno=int(sys.argv[1])))]
    runpy.run_module("lapse", run_name="__main__", alter_sys=True)
