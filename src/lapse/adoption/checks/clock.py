"""Check that the clocks of this machine and of the database agree."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection

from lapse.adoption.findings import ERROR, WARNING, Finding
from lapse.adoption.inspection import Inspection

WARNING_SECONDS = 2
ERROR_SECONDS = 60


def check_clock(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield a difference between this machine's clock and the database's, beyond the time of the round trip."""
    del inspection
    before = datetime.now(UTC)
    ((database_time,),) = connection.execute("SELECT clock_timestamp()").fetchall()
    after = datetime.now(UTC)
    half_trip = (after - before) / 2
    ahead = (before + half_trip - database_time).total_seconds()
    difference = abs(ahead) - half_trip.total_seconds()  # the server may have answered at any moment in between
    if difference > WARNING_SECONDS:
        yield Finding(
            ERROR if difference > ERROR_SECONDS else WARNING,
            "clock-difference",
            f"This machine's clock is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} the database's. "
            "lapse uses the database's; a time that an application on this machine writes is wrong by so much.",
            "Synchronize both machines by NTP: `timedatectl set-ntp true`.",
        )
