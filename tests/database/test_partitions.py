"""lapse on tables that are partitioned by owner, in the way that docs/retention.md shows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from lapse import BackgroundWorker, ConversationRepository, ConversationService, Database, migrate
from lapse.store.operations import due
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.closed_conversations import insert_closed
from tests.support.concurrency import at_once, services
from tests.support.invariants import check_invariants
from tests.support.sql import count, run_sql, transaction

DOCUMENT = (Path(__file__).parents[2] / "docs/retention.md").read_text(encoding="utf-8")
DAY = timedelta(days=1)


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def partitioned(postgres_url: str) -> Iterator[Database]:
    """Return a database that was partitioned when it held conversations already."""
    with closing(Database(postgres_url)) as database:
        insert_closed(database, range(20), ended_ago=40 * DAY, owner_id=1)
        insert_closed(database, range(20), ended_ago=40 * DAY, owner_id=2)
        insert_conversations(database, range(100, 120), silent_for=timedelta(minutes=31))
        insert_conversations(database, range(200, 230), expires_in=-timedelta(minutes=1))
        with transaction(database) as connection:
            # The driver's own way, which leaves each per cent sign alone.
            connection.connection.cursor().execute(block("sql"))
        yield database


def test_the_tables_are_partitioned_and_keep_their_rows_and_indexes(partitioned: Database) -> None:
    assert count(partitioned, "conversations") == 90
    kinds = run_sql(partitioned, "SELECT relname, relkind FROM pg_class WHERE relkind = 'p' ORDER BY relname")
    assert [row.relname for row in kinds] == ["conversation_events", "conversations"]
    names = {index["name"] for index in sa.inspect(partitioned.engine).get_indexes("conversations")}
    assert {"uq_conversations_open_session", "ix_conversations_ended_at_closed"} <= names
    assert len(names) == 6
    assert not migrate(partitioned).changed


def test_active_conversations_are_estimated_over_all_partitions(
    partitioned: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "EXACT_UP_TO", {"postgresql": 10})
    insert_conversations(partitioned, range(1_000, 1_200))
    run_sql(partitioned, "ANALYZE conversations")
    assert ConversationRepository(partitioned).count_active() == 250


def test_messages_sweeps_and_purges_work_as_before(partitioned: Database, postgres_url: str) -> None:
    with services(postgres_url, 4) as several:
        opened = at_once([partial(one.record_message, 3, customer(1), BUSINESS) for one in several])
    assert len({conversation.conv_id for conversation in opened}) == 1
    with closing(ConversationService(postgres_url)) as service:
        assert service.record_message(3, BUSINESS, customer(1), sender="agent").status == "progress"
        worker = BackgroundWorker(service=service)
        assert [(run.ended, run.error) for run in worker.run_cycle()] == [(20, None), (30, None), (0, None)]
        assert service.get_conversation_by_id(opened[0].conv_id).status == "progress"
        result = service.conversation_repo.purger.purge(30, batch_size=15)
        assert (result.conversations, result.events) == (40, 40)
    check_invariants(partitioned)


def test_the_example_in_python_runs() -> None:
    shown = subprocess.run([sys.executable, "-c", block("python")], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["0", "0"]
