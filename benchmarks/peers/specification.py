"""The way that most applications begin with: select a hundred due rows, update them one by one by their id.

More direct than a service behind HTTP would be: a connection of psycopg on the same machine, autocommit, statements
prepared as psycopg does by default. No events are written.
"""

from __future__ import annotations

import time

from benchmarks.bench import connect
from benchmarks.peers.rate import Rate

FIND = """
    SELECT * FROM conversations WHERE status IN ('pending', 'progress') AND expires_at < now() LIMIT 100
"""
END = "UPDATE conversations SET status = 'expired', ended_at = now() WHERE conv_id = %s RETURNING *"


def end_some(url: str, seconds: float) -> Rate:
    """End what is due for so many seconds."""
    with connect(url) as connection:
        curve: list[tuple[float, int]] = []
        ended, begin = 0, time.perf_counter()
        while (passed := time.perf_counter() - begin) < seconds:
            curve.append((round(passed, 3), ended))
            due = connection.execute(FIND).fetchall()
            if not due:
                break
            for row in due:
                connection.execute(END, [row[1]]).fetchone()
            ended += len(due)
        return Rate(ended, time.perf_counter() - begin, curve)
