"""What a cancelled task still waits for: that what it began has ended."""

from __future__ import annotations

import asyncio
from typing import Any


async def outlast(work: asyncio.Future[Any]) -> bool:
    """Wait until work is done, however often the caller is cancelled meanwhile; return whether it was.

    Whoever is told so raises `CancelledError`, now that it is true.
    """
    is_cancelled = False
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            is_cancelled = True
    if not work.cancelled():
        work.exception()  # asked for, or asyncio logs it where the caller has another error to raise
    return is_cancelled
