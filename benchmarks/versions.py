"""The version of lapse that this one is measured against."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from benchmarks.machine import ROOT

BEFORE = "8160c0a"
LONGEST = 1.03
"""How many times a figure may be that of the version before."""


def sources(folder: Path) -> dict[str, Path]:
    """Return the sources of both versions by their names, `before` and `now`; the former is put into this folder."""
    archive = subprocess.run(["git", "archive", BEFORE, "src"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder / BEFORE, filter="data")
    return {"before": folder / BEFORE / "src", "now": ROOT / "src"}
