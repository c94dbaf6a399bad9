"""The command with a terminal, as its users have one."""

from __future__ import annotations

import os
import pty
import subprocess
import threading

from tests.support.commands import LAPSE, environment


def run_with_terminal_for_errors(*arguments: str) -> tuple[int, str, str]:
    """Run the command with a terminal as its standard error."""
    terminal, end = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                part = os.read(terminal, 65_536)
            except OSError:  # Linux: the other end was closed
                return
            if not part:
                return
            shown.append(part)

    with subprocess.Popen(
        [*LAPSE, *arguments],
        env=environment({"TERM": "xterm", "COLUMNS": "100"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=end,
        encoding="utf-8",
    ) as process:
        os.close(end)
        reader = threading.Thread(target=read)
        reader.start()
        out, _ = process.communicate(timeout=60)
        reader.join(timeout=60)
    os.close(terminal)
    return process.returncode, out, b"".join(shown).decode()
