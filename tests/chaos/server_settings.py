"""Settings of role, database and server that lapse must cope with, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import make_url

from tests.support.postgres import Server


class Case(NamedTuple):
    """Settings that somebody has given a database or a role."""

    name: str
    settings: dict[str, str]


def _one(name: str, *values: str) -> list[Case]:
    return [Case(f"{name}={value}", {name: value}) for value in values]


WORKS = [
    *_one("DateStyle", "SQL, DMY", "SQL, MDY", "German", "Postgres, MDY", "ISO, YMD"),
    *_one("TimeZone", "Pacific/Kiritimati", "America/St_Johns", "<+03>-03", "Etc/GMT+12", "Europe/Lisbon"),
    *_one("IntervalStyle", "iso_8601", "sql_standard", "postgres_verbose"),
    *_one("client_encoding", "LATIN1", "SQL_ASCII", "EUC_JP", "SJIS", "WIN1252"),
    *_one("bytea_output", "escape"),
    *_one("extra_float_digits", "-15", "3"),
    *_one("standard_conforming_strings", "off"),
    Case("old strings", {"standard_conforming_strings": "off", "backslash_quote": "on", "escape_string_warning": "on"}),
    *_one("quote_all_identifiers", "on"),
    *_one("array_nulls", "off"),
    *_one("transform_null_equals", "on"),
    *_one("default_transaction_isolation", "repeatable read", "serializable", "read uncommitted"),
    *_one("default_transaction_deferrable", "on"),
    Case(
        "serializable and deferrable",
        {"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on"},
    ),
    *_one("statement_timeout", "30s"),
    *_one("lock_timeout", "5s"),
    *_one("idle_in_transaction_session_timeout", "300ms"),
    *_one("transaction_timeout", "30s"),
    *_one("client_min_messages", "debug5", "error"),
    *_one("lc_messages", "C"),
    *_one("search_path", '"$user", public', "elsewhere, public"),
    *_one("plan_cache_mode", "force_generic_plan", "force_custom_plan"),
    Case("jit", {"jit": "on", "jit_above_cost": "0", "jit_inline_above_cost": "0", "jit_optimize_above_cost": "0"}),
    *_one("enable_indexscan", "off"),
    *_one("enable_bitmapscan", "off"),
    *_one("enable_seqscan", "off"),
    Case("no index", {"enable_indexscan": "off", "enable_indexonlyscan": "off", "enable_bitmapscan": "off"}),
    Case("merge joins", {"enable_nestloop": "off", "enable_hashjoin": "off", "enable_hashagg": "off"}),
    *_one("work_mem", "64kB"),
    *_one("temp_buffers", "100"),
    *_one("row_security", "off"),
    *_one("session_replication_role", "replica"),
    *_one("synchronous_commit", "off", "local", "remote_apply"),
    Case(
        "errors with parameters",
        {"log_parameter_max_length_on_error": "-1", "log_min_error_statement": "error", "log_statement": "all"},
    ),
    *_one("check_function_bodies", "off"),
    *_one("default_table_access_method", "heap"),
    *_one("default_toast_compression", "pglz"),
    Case(
        "parallel",
        {
            "debug_parallel_query": "on",
            "force_parallel_mode": "on",
            "parallel_setup_cost": "0",
            "parallel_tuple_cost": "0",
            "min_parallel_table_scan_size": "0",
            "min_parallel_index_scan_size": "0",
            "max_parallel_workers_per_gather": "2",
        },
    ),
]
"""With these, everything is as it is without."""

BEFORE_THE_SCHEMA = (
    "DateStyle=German",
    "TimeZone=America/St_Johns",
    "client_encoding=SQL_ASCII",
    "old strings",
    "quote_all_identifiers=on",
    "serializable and deferrable",
    "client_min_messages=debug5",
    "check_function_bodies=off",
    "parallel",
)
"""Of these the small run makes a schema under each; the full one under all."""

FAILS = [
    *_one("default_transaction_read_only", "on"),
    *_one("statement_timeout", "1ms"),
    *_one("transaction_timeout", "1ms"),
    Case("not even a transaction", {"default_transaction_read_only": "on", "statement_timeout": "1ms"}),
]
"""With these, what cannot be done is refused in one line."""


@contextmanager
def given_to(server: Server, url: str, settings: dict[str, str], *, role: str | None = None) -> Iterator[int]:
    """Give a database these settings, those of them that the server knows, and take them back.

    Args:
        server: the database's.
        url: the database's.
        settings: by name.
        role: of this role's sessions in it; default is everybody's.

    Yields:
        how many of them the server knows.
    """
    database = make_url(url).database
    owner = f'ROLE "{role}" IN DATABASE "{database}"' if role else f'DATABASE "{database}"'
    names = ", ".join(f"'{name.lower()}'" for name in settings)
    found = server.execute(f"SELECT lower(name) FROM pg_settings WHERE lower(name) IN ({names})")
    known = {name for (name,) in found}
    for name, value in settings.items():
        if name.lower() in known:
            # A list is spelled as one: in quotes it would be one name.
            spelled = value if name == "search_path" else f"'{value}'"
            server.execute(f"ALTER {owner} SET {name} = {spelled}")
    try:
        yield len(known)
    finally:
        server.execute(f"ALTER {owner} RESET ALL")
