"""A test's database on PostgreSQL may be another's after it, where all that the test has left in it are rows."""

from __future__ import annotations

import psycopg

FIRST_OWN_OID = 16_384
"""What lies below is PostgreSQL's."""
_STATISTICS = "{relfilenode,relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid}"

# All that a statement may have changed but rows of lapse's tables: definitions, rights, settings, the planner's notes.
_STATE = f"""
    SELECT md5(string_agg(part, E'\\n' ORDER BY part)) FROM (
        SELECT (to_jsonb(c) - '{_STATISTICS}'::text[])::text FROM pg_class AS c WHERE oid >= {FIRST_OWN_OID}
        UNION ALL SELECT oid || relacl::text FROM pg_class WHERE oid < {FIRST_OWN_OID} AND relacl IS NOT NULL
        UNION ALL SELECT to_jsonb(a)::text FROM pg_attribute AS a WHERE attrelid >= {FIRST_OWN_OID}
        UNION ALL SELECT to_jsonb(p)::text FROM pg_proc AS p WHERE oid >= {FIRST_OWN_OID} OR proacl IS NOT NULL
        UNION ALL SELECT to_jsonb(t)::text FROM pg_type AS t WHERE oid >= {FIRST_OWN_OID}
        UNION ALL SELECT to_jsonb(r)::text FROM pg_rewrite AS r WHERE oid >= {FIRST_OWN_OID}
        UNION ALL SELECT to_jsonb(i)::text FROM pg_index AS i WHERE indrelid >= {FIRST_OWN_OID}
        UNION ALL SELECT to_jsonb(c)::text FROM pg_constraint AS c WHERE oid >= {FIRST_OWN_OID}
        UNION ALL SELECT to_jsonb(t)::text FROM pg_trigger AS t
        UNION ALL SELECT to_jsonb(p)::text FROM pg_policy AS p
        UNION ALL SELECT to_jsonb(n)::text FROM pg_namespace AS n WHERE nspname !~ '^pg_(toast_)?temp_'
        UNION ALL SELECT to_jsonb(e)::text FROM pg_extension AS e
        UNION ALL SELECT to_jsonb(e)::text FROM pg_event_trigger AS e
        UNION ALL SELECT to_jsonb(p)::text FROM pg_publication AS p
        UNION ALL SELECT to_jsonb(d)::text FROM pg_default_acl AS d
        UNION ALL SELECT to_jsonb(s)::text FROM pg_statistic_ext AS s
        UNION ALL SELECT starelid || ' is analyzed' FROM pg_statistic WHERE starelid >= {FIRST_OWN_OID}
        UNION ALL SELECT to_jsonb(v)::text FROM public.lapse_schema_version AS v
        UNION ALL SELECT (to_jsonb(d) - '{{oid,datname,datfrozenxid,datminmxid,dathasloginevt}}'::text[])::text
            FROM pg_database AS d WHERE datname = current_database()
        UNION ALL SELECT to_jsonb(s)::text FROM pg_db_role_setting AS s
            WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    ) AS state (part)"""
_END_SESSIONS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""
_EMPTY = "TRUNCATE conversations, conversation_events, message_receipts; SELECT pg_stat_reset()"


def state_of(url: str) -> str:
    """Return what stands for all of a database but lapse's rows: two with the same are the same."""
    with _connected(url) as connection:
        return _state(connection)


def empty(url: str, state: str) -> bool:
    """End a database's sessions and delete its rows; tell whether it is as new then, which is in this state."""
    try:
        with _connected(url) as connection:
            connection.execute(_END_SESSIONS)
            if _state(connection) != state:
                return False
            connection.execute(_EMPTY)
            return True
    except psycopg.Error:
        return False


def _connected(url: str) -> psycopg.Connection[tuple[str, ...]]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True, options="-c lock_timeout=5s")


def _state(connection: psycopg.Connection[tuple[str, ...]]) -> str:
    ((state,),) = connection.execute(_STATE.encode()).fetchall()
    return state
