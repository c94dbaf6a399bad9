"""What keeps a table from being adopted: said in one line, before anything is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from psycopg import Connection

from lapse.adoption.catalog import Table
from lapse.adoption.checks.in_the_way import check_way
from lapse.adoption.checks.kind import check_server, check_version
from lapse.adoption.checks.policies import check_forced_security
from lapse.adoption.checks.rights import check_rights_to_adopt
from lapse.adoption.checks.settings import check_settings
from lapse.adoption.checks.statuses import check_statuses
from lapse.adoption.findings import TROUBLE, Finding, name_of, trouble
from lapse.adoption.looks import BEGIN, rows, set_limits, set_output
from lapse.adoption.names import quoted
from lapse.adoption.pooling import require_own_session
from lapse.adoption.required_columns import obstacles
from lapse.adoption.subject import Kind, Subject, read_subject
from lapse.errors import AdoptionError
from lapse.store.connection import Connection as StoreConnection


def check_adoptable(store: StoreConnection) -> None:
    """Let a table pass that can be adopted, or whose adoption can go on.

    Raises:
        AdoptionError: it cannot; the message says what to do.
    """
    for finding in _troubles(store, _against_adoption):
        raise AdoptionError(f"{finding.what.rstrip('.')}; nothing was changed: {finding.do}")


def check_returnable(store: StoreConnection) -> None:
    """Let a table pass that is adopted, or half-way, and that this role can give back.

    Raises:
        AdoptionError: it is not, or cannot; the message says what to do.
    """
    for finding in _troubles(store, _against_return):
        raise AdoptionError(f"{finding.what.rstrip('.')}; nothing was changed: {finding.do}")


Looks = Callable[[Subject, Connection[Any]], Iterator[Finding]]


def _troubles(store: StoreConnection, looks: Looks) -> Iterator[Finding]:
    require_own_session(store.driver)  # not inside a transaction, for which any pooler keeps a session
    set_output(store.driver, is_local=False)  # of all that follows: what is found is taken for SQL, and kept

    def work(inside: StoreConnection) -> list[Finding]:
        set_limits(inside.driver)
        return [finding for finding in looks(read_subject(inside), inside.driver) if finding.level == TROUBLE]

    yield from store.transaction(BEGIN, work)


def _against_return(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    yield from check_server(subject)
    yield from check_settings(subject)
    if subject.kind is Kind.OWN:
        yield trouble("own", "The tables are lapse's own", "there is nothing to take off")
    elif subject.kind not in (Kind.ADOPTED, Kind.ADOPTING):
        yield trouble("not-adopted", "The table conversations is not adopted", "there is nothing to take off")
    yield from check_rights_to_adopt(replace(subject, kind=Kind.ADOPTING), connection)


def _against_adoption(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    yield from check_server(subject)
    yield from check_settings(subject)
    if subject.kind is Kind.OWN:
        yield trouble("own", "The tables are lapse's own", "there is nothing to adopt; `lapse migrate` upgrades them")
    if subject.table is None:
        yield trouble(
            "no-table",
            "There is no table conversations in this role's search_path",
            "look at DATABASE_URL and the role; where there is none yet, `lapse migrate` makes lapse's own",
        )
        return
    yield from obstacles(subject.table)
    # Whatever is wrong with it, an adopted table is looked at as one to be adopted: something may be lost of it.
    adopting = replace(subject, kind=Kind.ADOPTING)
    yield from check_rights_to_adopt(adopting, connection)
    yield from _owner(subject.table, connection)
    yield from check_forced_security(adopting, connection)
    yield from check_statuses(adopting, connection)
    yield from check_version(subject) if subject.kind is Kind.ADOPTED else ()
    yield from check_way(subject, connection)


_OWNER_MAY_NOT = """
    SELECT FROM pg_class c WHERE c.oid = to_regclass(%(table)s)
        AND NOT has_schema_privilege(c.relowner, c.relnamespace, 'CREATE')"""


def _owner(table: Table, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield what the owner lacks, to whom lapse's tables and functions will belong."""
    if rows(connection, _OWNER_MAY_NOT, {"table": name_of(table)}):
        yield trouble(
            "missing-right",
            f"The table's owner, {table.owner}, may not create anything in schema {table.schema}",
            f"GRANT CREATE ON SCHEMA {quoted(table.schema)} TO {quoted(table.owner)};",
        )
    if table.is_row_security_active:
        yield trouble(
            "row-security",
            "Row level security keeps rows of the table from this role",
            "adopt as a role with BYPASSRLS",
        )
