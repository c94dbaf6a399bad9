"""Where and with what: the facts without which a figure means nothing."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.results import median

ROOT = Path(__file__).parents[1]
PACKAGES = ("psycopg", "sqlalchemy", "procrastinate", "prometheus-client", "waitress")


def describe_machine() -> dict[str, Any]:
    """Return CPU, memory, kernel and disk; the disk also by how long it takes to keep a page."""
    return {
        "cpu": _first(r"model name\s*: (.+)", "/proc/cpuinfo") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(_first(r"MemTotal: +(\d+) kB", "/proc/meminfo") or 0) / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "disk": _disk(),
        "fdatasync_ms": _fdatasync_ms(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of all that takes part, but PostgreSQL's."""
    found = {"lapse": _commit(), "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _first(pattern: str, path: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1].strip() if found else None


def _disk() -> str:
    """Name the file system and the device under the folder of the databases."""
    folder = Path(tempfile.gettempdir()).resolve()
    try:
        mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    holding = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    device, _, kind = max(holding, key=lambda mount: len(mount[1]), default=("unknown", "", "unknown"))
    return f"{kind} on {Path(device).name}"


def _fdatasync_ms() -> float:
    times = []
    with tempfile.TemporaryFile() as file:
        for page in range(200):
            os.pwrite(file.fileno(), b"x" * 8192, page * 8192)
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return round(1000 * median(times), 3)


def _commit() -> str:
    command = ["git", "-c", f"safe.directory={ROOT}", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version("lapse")
