"""What PostgreSQL writes to its log meanwhile, by `pg_walinspect`."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

_LSN = "SELECT pg_current_wal_flush_lsn()::text"
_WAL = """
    SELECT "resource_manager/record_type", sum(count)::bigint, sum(record_size)::bigint, sum(fpi_size)::bigint
    FROM pg_get_wal_stats(%s, %s, true) WHERE count > 0 GROUP BY 1 ORDER BY 3 DESC
"""


@dataclass(frozen=True, slots=True)
class WalRecords:
    """Records of one type: how many, their bytes, and the bytes of full page images beside them."""

    kind: str
    count: int
    bytes: int
    image_bytes: int


@dataclass(frozen=True, slots=True)
class Wal:
    """All records of a stretch of the log, the most bytes first."""

    records: list[WalRecords]

    @property
    def bytes(self) -> int:
        """Return the bytes without full page images."""
        return sum(records.bytes for records in self.records)

    @property
    def image_bytes(self) -> int:
        """Return the bytes of full page images."""
        return sum(records.image_bytes for records in self.records)


class WalMeter:
    """Counts what the server writes between `start` and `stop`, whoever makes it do so."""

    def __init__(self, url: str) -> None:
        """Connect."""
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        self._begin = self._lsn()

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def start(self) -> None:
        """Begin, right after a checkpoint."""
        self._begin = self._lsn()

    def stop(self) -> Wal:
        """Return what was written since `start`."""
        rows = self._connection.execute(_WAL, [self._begin, self._lsn()]).fetchall()
        return Wal([WalRecords(kind, int(count), int(size), int(images)) for kind, count, size, images in rows])

    def _lsn(self) -> str:
        self._connection.execute("CHECKPOINT")  # what commits did not wait for is on the disk then
        row = self._connection.execute(_LSN).fetchone()
        return str(row[0]) if row else ""
