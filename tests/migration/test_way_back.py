"""The way back that docs/operations.md shows: its SQL undoes each migration but the first, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory

from lapse import ConversationService, Database, migrate
from lapse.store import schema_version
from lapse.store.migrate import alembic_config
from lapse.store.operations.schema import head_version
from tests.migration.test_schema_matches_metadata import catalog
from tests.support.sql import run_sql

NEWER_KEY, OLDER_KEY = "(conv_id, owner_id)", "(owner_id, conv_id)"
"""The way back from 0005 leaves the primary key as it is: an older lapse works with it, and SQLite cannot change it."""
DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^( *)```sql\n *-- from (\d+) to (\d+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def ways_back() -> dict[str, tuple[str, list[str]]]:
    """Return, by the version that is left, the version that it leads to and its statements."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("operations*.md"))]
    return {
        newer: (older, [" ".join(statement.split()) for statement in sql.split(";") if statement.strip()])
        for text in texts
        for _, newer, older, sql in _BLOCK.findall(text)
    }


def migrated_to(url: str, version: str) -> Database:
    database = Database(url)
    database.schema_transaction(lambda connection: command.upgrade(alembic_config(connection=connection), version))
    return database


def with_the_older_key(database: Database) -> dict[str, list[tuple[str, ...]]]:
    return {
        part: sorted(tuple(cell.replace(NEWER_KEY, OLDER_KEY) for cell in row) for row in rows)
        for part, rows in catalog(database).items()
    }


def test_every_version_but_the_first_has_a_way_back() -> None:
    scripts = ScriptDirectory.from_config(alembic_config()).walk_revisions()
    wanted = {script.revision: script.down_revision for script in scripts if script.down_revision}
    assert {newer: older for newer, (older, _) in ways_back().items()} == wanted


@pytest.mark.parametrize("newer", sorted(ways_back()))
def test_a_way_back_leads_to_the_schema_that_was(newer: str, new_database: Callable[..., str], backend: str) -> None:
    older, (begin, *statements, commit) = ways_back()[newer]
    assert (begin, commit) == ("BEGIN", "COMMIT")
    with (
        closing(migrated_to(new_database(backend, migrated=False), newer)) as database,
        closing(migrated_to(new_database(backend, migrated=False), older)) as wanted,
    ):
        for statement in statements:
            run_sql(database, statement)
        assert schema_version(database) == older
        assert with_the_older_key(database) == with_the_older_key(wanted)


def test_the_way_back_and_forward_again_keeps_conversations(database: Database) -> None:
    kept = ConversationService(database).record_message(1, "+5511999999999", "+14155238886")
    for _, (_, (_, *statements, _)) in sorted(ways_back().items(), reverse=True):
        for statement in statements:
            run_sql(database, statement)
    result = migrate(database)
    assert (result.changed, result.after) == (True, head_version())
    found = ConversationService(database).get_conversation_by_id(kept.conv_id)
    assert found is not None
    assert (found.opened_by, replace(found, opened_by=kept.opened_by)) == ("user", kept)
