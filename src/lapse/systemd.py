"""Talking to systemd from a service of `Type=notify`, in the words of sd_notify(3). Elsewhere nothing is said."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLES = ("WATCHDOG_USEC", "WATCHDOG_PID")
PATIENCE_SECONDS = 0.2
"""How long a message waits for a manager that does not read: neither the work nor a stop may wait for it."""


class Systemd:
    """The service manager that started this process, if it is one that listens."""

    def __init__(self) -> None:
        """Find out; nothing is said yet."""
        self._address = os.environ.get(SOCKET_VARIABLE, "")
        self._has_said_ready = False

    def report(self, status: str) -> None:
        """Show what the service does, one line; the first time this also says that it has started."""
        ready = [] if self._has_said_ready else ["READY=1"]
        # Where nobody took it, the next report says it again: a manager waits for this one.
        self._has_said_ready = self._say(*ready, f"STATUS={' '.join(status.split())}") or self._has_said_ready

    def stopping(self) -> None:
        """Say that the service is about to end."""
        self._say("STOPPING=1", "STATUS=stopping")

    def feed_watchdog(self, is_alive: Callable[[], bool]) -> None:
        """From now on say twice in the watchdog's time that the service is alive, as long as it is."""
        if seconds := self._watchdog_seconds():
            threading.Thread(
                target=self._feed, args=(seconds / 2, is_alive), name="lapse-watchdog", daemon=True
            ).start()

    # --- inside -------------------------------------------------------------------------------------------------

    def _feed(self, seconds: float, is_alive: Callable[[], bool]) -> None:
        pause = threading.Event()
        while True:
            if is_alive():
                self._say("WATCHDOG=1")
            pause.wait(seconds)

    def _watchdog_seconds(self) -> float:
        """Return the watchdog's time; 0 where there is none, or it is another process's."""
        microseconds, pid = (os.environ.get(name, "") for name in WATCHDOG_VARIABLES)
        if not self._address or not microseconds.isdecimal() or pid not in ("", str(os.getpid())):
            return 0.0
        return int(microseconds) / 1_000_000

    def _say(self, *lines: str) -> bool:
        """Tell whether the manager took it."""
        if not self._address:
            return False
        # `@` stands for the NUL byte that abstract names begin with.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # Whether anybody listens is not the service's business.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_manager:
            to_manager.settimeout(PATIENCE_SECONDS)
            to_manager.sendto("\n".join(lines).encode(), address)
            return True
        return False
