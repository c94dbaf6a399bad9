"""Times that PostgreSQL has and no calendar of Python holds: an application may have written them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from psycopg import DataError, adapters
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format

from lapse.models import NEVER

LONG_BEFORE = datetime.min.replace(tzinfo=UTC)
_TYPE = adapters.types["timestamptz"].oid
_WITHIN_CALENDAR = adapters.get_loader(_TYPE, Format.TEXT)


class FarTimeLoader(Loader):
    """Reads `infinity` and whatever is later than year 9999 as `NEVER`, and what is before year 1 as that year."""

    def __init__(self, oid: int, context: Any = None) -> None:
        """Prepare the driver's own loader, which most times go through."""
        super().__init__(oid, context)
        assert _WITHIN_CALENDAR is not None  # noqa: S101 - the driver brings one
        self._within_calendar = _WITHIN_CALENDAR(oid, context)

    def load(self, data: Buffer) -> Any:
        """Return the moment."""
        try:
            return self._within_calendar.load(data)
        except DataError:
            text = bytes(data)
            return LONG_BEFORE if text.startswith(b"-") or text.endswith(b"BC") else NEVER


def read_far_times(driver: Any) -> None:
    """Let a connection read every time that there is."""
    if driver.adapters.get_loader(_TYPE, Format.TEXT) is not FarTimeLoader:
        driver.adapters.register_loader(_TYPE, FarTimeLoader)
