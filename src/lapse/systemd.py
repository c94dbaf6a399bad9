"""Notifications to systemd for a service of `Type=notify`, see sd_notify(3). Without systemd they do nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

SEND_TIMEOUT_SECONDS = 0.2
"""How long to wait for a service manager that does not read: it must delay neither the work nor a stop."""


class Systemd:
    """The service manager that started this process, if it accepts notifications."""

    def __init__(self) -> None:
        """Read the environment; nothing is sent yet."""
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._is_ready_sent = False

    def report(self, status: str) -> None:
        """Send the status, one line; the first report also says that the service is ready."""
        ready = [] if self._is_ready_sent else ["READY=1"]
        # When sending failed, the next report repeats it: the manager waits for it.
        self._is_ready_sent = self._send(*ready, f"STATUS={' '.join(status.split())}") or self._is_ready_sent

    def stopping(self) -> None:
        """Report that the service is about to stop."""
        self._send("STOPPING=1", "STATUS=stopping")

    def feed_watchdog(self, is_alive: Callable[[], bool]) -> None:
        """Start a thread that feeds the watchdog twice per interval for as long as `is_alive` returns True."""
        if seconds := self._watchdog_interval():
            arguments = (seconds / 2, is_alive)
            threading.Thread(target=self._feed, args=arguments, name="lapse-watchdog", daemon=True).start()

    # --- inside -------------------------------------------------------------------------------------------------

    def _feed(self, seconds: float, is_alive: Callable[[], bool]) -> None:
        while True:
            if is_alive():
                self._send("WATCHDOG=1")
            time.sleep(seconds)

    def _watchdog_interval(self) -> float:
        """Return the watchdog's interval in seconds; 0 when it is off, or meant for another process."""
        microseconds, pid = (os.environ.get(name, "") for name in ("WATCHDOG_USEC", "WATCHDOG_PID"))
        if not self._address or not microseconds.isdecimal() or pid not in ("", str(os.getpid())):
            return 0.0
        return int(microseconds) / 1_000_000

    def _send(self, *lines: str) -> bool:
        """Send lines to the manager; return whether it accepted them."""
        if not self._address:
            return False
        # `@` stands for the NUL byte that begins an abstract socket name.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # A manager that does not listen is no failure of the service.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(SEND_TIMEOUT_SECONDS)
            manager.sendto("\n".join(lines).encode(), address)
            return True
        return False
