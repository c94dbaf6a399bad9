"""What keeps a table from being adopted: said in one line, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from lapse.adoption.checks_in_the_way import check_way
from lapse.adoption.checks_kind import check_server, check_version
from lapse.adoption.checks_rights import check_rights_to_adopt
from lapse.adoption.checks_statuses import check_statuses
from lapse.adoption.findings import TROUBLE, Finding, trouble
from lapse.adoption.looks import BEGIN, set_limits
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
    require_own_session(store.driver)
    for finding in _troubles(store):
        raise AdoptionError(f"{finding.what.rstrip('.')}; nothing was changed: {finding.do}")


def _troubles(store: StoreConnection) -> Iterator[Finding]:
    def work(inside: StoreConnection) -> list[Finding]:
        set_limits(inside.driver)
        return [finding for finding in _found(read_subject(inside), inside.driver) if finding.level == TROUBLE]

    yield from store.transaction(BEGIN, work)


def _found(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    yield from check_server(subject)
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
    yield from check_rights_to_adopt(subject, connection)
    yield from check_statuses(subject, connection)
    yield from check_version(subject) if subject.kind is Kind.ADOPTED else ()
    yield from check_way(subject, connection)
