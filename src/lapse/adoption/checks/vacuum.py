"""Check that the tables are vacuumed: autovacuum, dead rows, and what holds back their removal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from psycopg import Connection

from lapse.adoption.bounded_queries import fetch_rows
from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, error, name_of
from lapse.adoption.inspection import Inspection, Kind

FEW_DEAD = 10_000
"""Fewer dead rows have no noticeable cost."""
DEAD_SHARE = 0.5
"""Of the live rows. Autovacuum starts at 0.2: beyond this share it does not run, or cannot remove them."""
JUST_VACUUMED = timedelta(minutes=1)
"""So long the statistics are unreliable: a session may report after the vacuum what it counted before."""
OLD_TRANSACTION = timedelta(minutes=15)
OLD_XMIN = 10_000_000
"""In transactions: for sessions whose start this role cannot see."""

_SETTINGS = "SELECT current_setting('autovacuum')::bool AND current_setting('track_counts')::bool AS is_on"
_DEAD = """
    SELECT coalesce(sum(n_live_tup), 0)::bigint AS live, coalesce(sum(n_dead_tup), 0)::bigint AS dead,
        max(greatest(last_autovacuum, last_vacuum)) AS vacuumed_at,
        clock_timestamp() AS now
    FROM pg_stat_user_tables WHERE relid = to_regclass(%(table)s)
        OR relid IN (SELECT relid FROM pg_partition_tree(to_regclass(%(table)s)))"""
_HOLDERS = """
    SELECT 'session' AS kind, pid::text AS name, xact_start AS since FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'
        AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
        AND (xact_start < clock_timestamp() - %(old)s OR greatest(age(backend_xmin), age(backend_xid)) > %(old_xmin)s)
    UNION ALL SELECT 'prepared transaction', gid, prepared FROM pg_prepared_xacts
    WHERE database = current_database() AND prepared < clock_timestamp() - %(old)s
    UNION ALL SELECT 'replication slot', slot_name, NULL FROM pg_replication_slots
    WHERE NOT active AND xmin IS NOT NULL
    ORDER BY since LIMIT 5"""


def check_autovacuum(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield whether autovacuum is disabled, for all tables or for one of these."""
    if inspection.kind in (Kind.OTHER, Kind.HIDDEN, Kind.EMPTY):
        return
    (settings,) = fetch_rows(connection, _SETTINGS)
    if not settings["is_on"]:
        yield error(
            "autovacuum-off",
            "autovacuum, or track_counts, which it requires, is off on this server: dead rows are never removed.",
            "ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf();",
        )
    for table in _tables(inspection):
        if any(option in table.options for option in ("autovacuum_enabled=false", "autovacuum_enabled=off")):
            yield error(
                "autovacuum-off",
                f"autovacuum is disabled for {table.name}: its dead rows are never removed.",
                f"ALTER TABLE {name_of(table)} RESET (autovacuum_enabled);",
            )


def check_dead_rows(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield tables with many dead rows."""
    for table in _tables(inspection):
        (statistics,) = fetch_rows(connection, _DEAD, {"table": name_of(table)})
        vacuumed_at = statistics["vacuumed_at"]
        if vacuumed_at and statistics["now"] - vacuumed_at < JUST_VACUUMED:
            continue
        if statistics["dead"] > max(FEW_DEAD, DEAD_SHARE * statistics["live"]):
            vacuumed = f"{vacuumed_at:%Y-%m-%d %H:%M}" if vacuumed_at else "never"
            yield error(
                "dead-rows",
                f"{table.name} has {statistics['dead']:,} dead rows beside {statistics['live']:,} live ones (last "
                f"vacuumed: {vacuumed}): each query for due conversations reads them.",
                f"VACUUM (ANALYZE) {name_of(table)}; and find out why autovacuum does not remove them.",
            )


def check_vacuum_is_free(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield what holds back the removal of dead rows: old transactions, prepared ones, inactive replication slots."""
    if inspection.kind in (Kind.OTHER, Kind.HIDDEN, Kind.EMPTY):
        return
    for holder in fetch_rows(connection, _HOLDERS, {"old": OLD_TRANSACTION, "old_xmin": OLD_XMIN}):
        kind, name, since = holder["kind"], holder["name"], holder["since"]
        ends = {
            "session": f"SELECT pg_terminate_backend({name}); and set idle_in_transaction_session_timeout",
            "prepared transaction": f"COMMIT PREPARED or ROLLBACK PREPARED {_literal(name)};",
            "replication slot": f"SELECT pg_drop_replication_slot({_literal(name)});",
        }
        holds = f"a transaction since {since:%Y-%m-%d %H:%M:%S %Z}" if since else "an old snapshot"
        message = f"The {kind} {name} holds {holds}: rows that died since then cannot be removed."
        yield error("vacuum-held-back", message, f"If it is not needed: {ends[kind]}")


def _tables(inspection: Inspection) -> Iterator[Table]:
    if inspection.kind not in (Kind.OTHER, Kind.HIDDEN, Kind.EMPTY):
        yield from filter(None, (inspection.table, inspection.events, inspection.receipts))


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"
