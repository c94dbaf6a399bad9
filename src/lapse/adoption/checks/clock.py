"""Check that this machine and the database agree on the time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection

from lapse.adoption.findings import NOTE, TROUBLE, Finding
from lapse.adoption.subject import Subject

NOTE_SECONDS = 2
TROUBLE_SECONDS = 60


def check_clock(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield how far this machine's clock is from the database's."""
    del subject
    before = datetime.now(UTC)
    ((theirs,),) = connection.execute("SELECT clock_timestamp()").fetchall()
    after = datetime.now(UTC)
    way = (after - before) / 2
    ahead = (before + way - theirs).total_seconds()
    apart = abs(ahead) - way.total_seconds()  # the answer may have been made at any moment in between
    if apart > NOTE_SECONDS:
        yield Finding(
            TROUBLE if apart > TROUBLE_SECONDS else NOTE,
            "clock-difference",
            f"This machine's clock is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} the database's. "
            "lapse goes by the database's; a time that an application here writes is wrong by so much.",
            "Let both machines take their time from NTP: `timedatectl set-ntp true`.",
        )
