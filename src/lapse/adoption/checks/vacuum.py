"""Check that the tables are vacuumed: dead rows, autovacuum, and what holds it back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from psycopg import Connection

from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, name_of, trouble
from lapse.adoption.looks import rows
from lapse.adoption.subject import Kind, Subject

FEW_DEAD = 10_000
"""So many dead rows cost nothing worth telling."""
DEAD_SHARE = 0.5
"""Of the live rows. Autovacuum comes at 0.2: beyond this it does not come, or cannot remove them."""
JUST_VACUUMED = timedelta(minutes=1)
"""So long the figures say nothing: what a session counted before a vacuum may be added to them after it."""
OLD_TRANSACTION = timedelta(minutes=15)
OLD_XMIN = 10_000_000
"""In transactions: where this role may not see how long another one has been there."""

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


def check_autovacuum(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield whether autovacuum is off, for all tables or for one of these."""
    if subject.kind in (Kind.OTHER, Kind.HIDDEN, Kind.EMPTY):
        return
    (settings,) = rows(connection, _SETTINGS)
    if not settings["is_on"]:
        yield trouble(
            "autovacuum-off",
            "autovacuum, or track_counts, which it needs, is off on this server: dead rows are never removed.",
            "ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf();",
        )
    for table in _tables(subject):
        if any(option in table.options for option in ("autovacuum_enabled=false", "autovacuum_enabled=off")):
            yield trouble(
                "autovacuum-off",
                f"autovacuum is off for {table.name}: its dead rows are never removed.",
                f"ALTER TABLE {name_of(table)} RESET (autovacuum_enabled);",
            )


def check_dead_rows(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield tables with many dead rows."""
    for table in _tables(subject):
        (found,) = rows(connection, _DEAD, {"table": name_of(table)})
        vacuumed_at = found["vacuumed_at"]
        if vacuumed_at and found["now"] - vacuumed_at < JUST_VACUUMED:
            continue
        if found["dead"] > max(FEW_DEAD, DEAD_SHARE * found["live"]):
            vacuumed = f"{vacuumed_at:%Y-%m-%d %H:%M}" if vacuumed_at else "never"
            yield trouble(
                "dead-rows",
                f"{table.name} has {found['dead']:,} dead rows beside {found['live']:,} live ones (last vacuumed: "
                f"{vacuumed}): each look at what is due passes them.",
                f"VACUUM (ANALYZE) {name_of(table)}; and see what keeps autovacuum from it.",
            )


def check_vacuum_is_free(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield what has kept dead rows from being removed for long: old transactions, forgotten slots."""
    if subject.kind in (Kind.OTHER, Kind.HIDDEN, Kind.EMPTY):
        return
    for holder in rows(connection, _HOLDERS, {"old": OLD_TRANSACTION, "old_xmin": OLD_XMIN}):
        kind, name, since = holder["kind"], holder["name"], holder["since"]
        ends = {
            "session": f"SELECT pg_terminate_backend({name}); and set idle_in_transaction_session_timeout",
            "prepared transaction": f"COMMIT PREPARED or ROLLBACK PREPARED {_literal(name)};",
            "replication slot": f"SELECT pg_drop_replication_slot({_literal(name)});",
        }
        holds = f"a transaction since {since:%Y-%m-%d %H:%M:%S %Z}" if since else "an old snapshot"
        what = f"The {kind} {name} holds {holds}: no dead row since then can be removed."
        yield trouble("vacuum-held-back", what, f"If nobody needs it: {ends[kind]}")


def _tables(subject: Subject) -> Iterator[Table]:
    if subject.kind not in (Kind.OTHER, Kind.HIDDEN, Kind.EMPTY):
        yield from filter(None, (subject.table, subject.events))


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"
