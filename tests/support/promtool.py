"""promtool, Prometheus' own judge of rules and of what they do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.require_program import missing

PROGRAM = shutil.which("promtool")
MISSING = "there is no promtool on this machine (the package `prometheus` of Debian and others has it)"


def promtool(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it, and return what it says; without it the test is skipped, for all to see, or fails where CI runs it."""
    if PROGRAM is None:
        missing(MISSING)
    return subprocess.run(
        [PROGRAM, *arguments], cwd=cwd, capture_output=True, encoding="utf-8", timeout=60, check=False
    )


def said(finished: subprocess.CompletedProcess[str]) -> str:
    """Return all that it wrote, for a failure's message."""
    return f"{finished.stdout}\n{finished.stderr}"
