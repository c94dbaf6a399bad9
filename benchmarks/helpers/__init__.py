"""Programs that benchmarks run as processes of their own: each says that it is ready, and begins when it is told."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from benchmarks.processes import forget_settings


def database_url() -> str:
    """Return the database that the benchmark gave, and forget all other settings."""
    url = os.environ["DATABASE_URL"]
    forget_settings()
    return url


def wait_for_go() -> None:
    """Say that all is prepared, and wait until the benchmark says go."""
    answer({"ready": True})
    sys.stdin.readline()


def answer(found: dict[str, Any]) -> None:
    """Hand something to the benchmark."""
    print(json.dumps(found), flush=True)
