"""Whatever a test of service and repository makes PostgreSQL run keeps the rules of Citus: no statement escapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from lapse.store.statements import Statement, Statements
from tests.support.citus_rules import RULES, broken_by, statements_of, tables_on

Problems = dict[str, list[str]]


@pytest.fixture(scope="session")
def _judged() -> Problems:
    """Return the statements judged so far; to begin with, those that only run where nothing is distributed."""
    judged: Problems = {}
    for has_server_clock in (True, False):
        local, distributed = (_sql(is_distributed, has_server_clock) for is_distributed in (False, True))
        judged |= {sql: [] for name, sql in local.items() if sql != distributed.get(name)}
    return judged


def _sql(is_distributed: bool, has_server_clock: bool) -> dict[str, str]:
    tables = tables_on(is_distributed=is_distributed, has_server_clock=has_server_clock)
    dialect = sa.make_url("postgresql+psycopg://").get_dialect()()
    return {name: Statement(statement, dialect).sql for name, statement in statements_of(tables).items()}


@pytest.fixture(autouse=True)
def _what_runs_keeps_the_rules_of_citus(monkeypatch: pytest.MonkeyPatch, _judged: Problems) -> Iterator[None]:
    broken: Problems = {}
    look_up = Statements.__call__

    def judge(statements: Statements, build: Callable[..., Any], *key: Any) -> Statement:
        compiled = look_up(statements, build, *key)
        if statements.shape.dialect == "postgresql":
            if compiled.sql not in _judged:
                statement = build(statements.tables, *key)
                _judged[compiled.sql] = [problem for rule in RULES for problem in broken_by(statement, rule)]
            if problems := _judged[compiled.sql]:
                broken[compiled.sql] = problems
        return compiled

    monkeypatch.setattr(Statements, "__call__", judge)
    yield
    assert broken == {}
