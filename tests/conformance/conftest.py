"""Whatever a test of service and repository makes PostgreSQL run keeps the rules of Citus: no statement escapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from lapse import ConversationRepository, Database
from lapse.store.connection import CompiledStatement
from tests.support.citus_rules import RULES, broken_by, statements_of
from tests.support.clock import ManualClock

Problems = dict[str, list[str]]


@pytest.fixture(scope="session")
def _judged() -> Problems:
    """Return the statements judged so far; to begin with, those that only run where nothing is distributed."""
    judged: Problems = {}
    for clock in (None, ManualClock()):
        database = Database("postgresql://nobody@127.0.0.1/never-connected", clock)
        found = statements_of(ConversationRepository(database), distributed=False)
        judged |= {
            CompiledStatement(statement, database.engine.dialect).sql: []
            for name, statement in found.items()
            if "[False]" in name
        }
    return judged


@pytest.fixture(autouse=True)
def _what_runs_keeps_the_rules_of_citus(monkeypatch: pytest.MonkeyPatch, _judged: Problems) -> Iterator[None]:
    broken: Problems = {}
    compile_it = CompiledStatement.__init__

    def judge(compiled: CompiledStatement, statement: Any, dialect: sa.Dialect) -> None:
        compile_it(compiled, statement, dialect)
        if dialect.name == "postgresql":
            if compiled.sql not in _judged:
                _judged[compiled.sql] = [problem for rule in RULES for problem in broken_by(statement, rule)]
            if problems := _judged[compiled.sql]:
                broken[compiled.sql] = problems

    monkeypatch.setattr(CompiledStatement, "__init__", judge)
    yield
    assert broken == {}
