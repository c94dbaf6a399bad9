"""How hard the faults strike: small in every run of the tests, full with `make chaos`; and the seed of all chance."""

from __future__ import annotations

import os
import random
import secrets
from typing import TypeVar

SCALE_VARIABLE = "LAPSE_CHAOS"
SEED_VARIABLE = "LAPSE_CHAOS_SEED"
T = TypeVar("T")


def is_full() -> bool:
    """Tell whether the faults strike with the full numbers."""
    return os.environ.get(SCALE_VARIABLE) == "full"


def scaled(*, small: T, full: T) -> T:
    """Return the one that this run is made with."""
    return full if is_full() else small


def seed() -> int:
    """Return this run's seed: the given one, else one drawn once and handed down to the processes of the run."""
    return int(os.environ.setdefault(SEED_VARIABLE, str(secrets.randbelow(2**32))))


def chance_of(name: str) -> random.Random:
    """Return what is random for this name: the same for the same seed, whatever else runs."""
    return random.Random(f"{seed()}/{name}")


def described() -> str:
    """Return the line that a run begins with."""
    return f"chaos: {scaled(small='small', full='full')}, {SEED_VARIABLE}={seed()}"
