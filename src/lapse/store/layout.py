"""How a database keeps lapse's tables: as lapse makes them, or as an application's own table that was adopted."""

from __future__ import annotations

LAPSE_COLUMNS = ("session_key", "version", "last_inbound_at", "idle_check_at", "idle_timeout_seconds")
"""What lapse adds to a table of the application's. Where that has a column of the name, lapse's is `lapse_…`."""
