"""Tools that a test needs and a machine may not have."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test, for all to see; where CI asks for everything, fail."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
