"""A process that notes what it does, a line at a time, until a signal ends it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.commands import environment

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


class NotingProcess:
    """One of them, and the file that it writes to."""

    def __init__(self, module: str, orders: str, out: Path) -> None:
        self.out = out
        with out.open("wb") as notes, out.with_suffix(".err").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, orders],
                env=environment({"PYTHONPATH": str(ROOT)}),
                stdin=subprocess.DEVNULL,
                stdout=notes,
                stderr=errors,
            )

    @property
    def complaints(self) -> str:
        """Return what it wrote to standard error."""
        return self.out.with_suffix(".err").read_text()

    def tell(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def notes_at_end(self, number: int) -> str:
        """Send the signal, wait for the end, and return what it noted."""
        self.tell(number)
        try:
            code = self._process.wait(PATIENCE_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
        assert self.complaints == "", self.complaints[-3_000:]
        # One that is killed, or told to end, before it can listen has noted nothing.
        assert code in (0, -number), code
        return self.out.read_text()
