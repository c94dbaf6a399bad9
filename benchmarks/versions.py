"""The versions of lapse that this one is measured against."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.processes import NOW

BEFORE = "8160c0a"
UNGROUPED = "52276e8"
"""From before messages were recorded in groups; its schema is 0003."""
LONGEST = 1.03
"""How many times a figure may be that of the version before."""


def sources(folder: Path, commit: str = BEFORE) -> dict[str, Path]:
    """Return the sources of both versions by their names, `before` and `now`; the former is put into this folder."""
    before = folder / commit
    if not before.exists():
        archive = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(before, filter="data")
    return {"before": before / "src", "now": NOW}
