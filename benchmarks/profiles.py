"""Where Python spends its time."""

from __future__ import annotations

import cProfile
import io
import pstats
from collections.abc import Callable
from typing import Any

SHOWN = 25


def profile_of(call: Callable[[], Any], what: str) -> str:
    """Run the call under cProfile, and return the functions that took the most time of their own."""
    profile = cProfile.Profile()
    profile.runcall(call)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(SHOWN)
    return f"{what} under cProfile, which itself takes time for each call\n{text.getvalue().strip()}"
