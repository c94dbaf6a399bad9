"""What an adoption has still to do: its steps in their order, each with its SQL, its lock and its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lapse.adoption.backfill import batch_statement
from lapse.adoption.duplicates import Duplicate, end_all_statement
from lapse.adoption.facts import Facts
from lapse.adoption.findings import counted
from lapse.adoption.names import HELPER_INDEX, KEY_CONSTRAINT, quoted
from lapse.adoption.preparing import prepare_statements, repair_statements
from lapse.adoption.row_triggers import row_functions
from lapse.adoption.wanted_indexes import WantedIndex
from lapse.store.layout import ADOPTION_TABLE, VERSION_TABLE
from lapse.store.schema_version import head_version
from lapse.store.table_access import close_statement
from lapse.store.table_locks import LOCK_TIMEOUT_MS, taking

NOBODY_WAITS = "SHARE UPDATE EXCLUSIVE on the table: nobody who reads or writes waits"
FOR_A_MOMENT = f"ACCESS EXCLUSIVE on the table for some milliseconds; each try gives up after {LOCK_TIMEOUT_MS} ms"
ROWS_OF_A_BATCH = "the rows of a batch, for some 50 ms; what others have locked is left to a later one"
NO_LOCK = "none on the table"

FLUSH_STATISTICS = """DO $$BEGIN
    -- This session's count of old row versions, which would otherwise be added to what the vacuum leaves.
    IF to_regproc('pg_stat_force_next_flush') IS NOT NULL THEN PERFORM pg_stat_force_next_flush(); END IF;
END$$"""
PREPARE, REPAIR, BACKFILL, CONSTRAINT, VALIDATE = "prepare", "repair", "backfill", "constraint", "validate"
INDEX, FUNCTIONS, DUPLICATES, UNIQUE = "index", "functions", "duplicates", "unique index"
DROP_HELPER, VACUUM, FINISH = "drop helper", "vacuum", "finish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step."""

    kind: str
    title: str
    lock: str
    size: str
    statements: Sequence[str]
    is_transaction: bool = False
    """All statements are one transaction, which takes its lock at once or is tried again."""
    index: WantedIndex | None = None

    @property
    def key(self) -> str:
        """Return what tells it from the others."""
        return f"{self.kind} {self.index.name}" if self.index else self.kind


def plan(facts: Facts, duplicates: Sequence[Duplicate] | None = None) -> list[Step]:
    """Return the steps that are left; none where the table is adopted.

    Args:
        facts: how far it is.
        duplicates: what will end, where somebody has looked.
    """
    return [*_filling(facts), *_indexing(facts), *_ending(facts, duplicates), *_finishing(facts)]


def _rows(facts: Facts) -> str:
    rows = facts.table.rows
    return (
        f"about {counted(rows, 'row')}, {counted(facts.table.pages, 'page')} of 8 KiB"
        if rows >= 0
        else (f"{counted(facts.table.pages, 'page')} of 8 KiB")
    )


def _filling(facts: Facts) -> Iterator[Step]:
    names = facts.names
    if facts.record is None:
        yield Step(
            kind=PREPARE,
            title="lapse's columns, its table of events, its functions and triggers",
            lock=FOR_A_MOMENT,
            size="no row is written",
            statements=prepare_statements(facts),
            is_transaction=True,
        )
    elif not facts.is_whole:
        yield Step(
            kind=REPAIR,
            title="columns, functions and triggers that have been taken off, put on or changed since",
            lock=FOR_A_MOMENT,
            size="no row is written",
            statements=repair_statements(facts),
            is_transaction=True,
        )
    if facts.record is None or not facts.is_filled:
        yield Step(
            kind=BACKFILL,
            title="the key of every row, and when the worker looks at it; batch after batch, from page 0 to the last",
            lock=ROWS_OF_A_BATCH,
            size=_rows(facts),
            statements=[batch_statement(names, 0, facts.table.pages)],
        )
    key = names.column("session_key")
    if KEY_CONSTRAINT not in facts.table.constraints:
        yield Step(
            kind=CONSTRAINT,
            title="no row without a key from now on",
            lock=FOR_A_MOMENT,
            size="no row is read",
            statements=[
                *taking(names.conversations),
                f"ALTER TABLE {names.conversations} ADD CONSTRAINT {KEY_CONSTRAINT}\n"
                f"    CHECK ({key} IS NOT NULL) NOT VALID",
            ],
            is_transaction=True,
        )
    if not facts.is_key_checked:
        yield Step(
            kind=VALIDATE,
            title="nor before",
            lock=NOBODY_WAITS,
            size=f"{_rows(facts)} are read",
            statements=[f"ALTER TABLE {names.conversations} VALIDATE CONSTRAINT {KEY_CONSTRAINT}"],
        )


def _indexing(facts: Facts) -> Iterator[Step]:
    for index in facts.wanted():
        if not facts.is_there(index):
            yield _index_step(facts, index)
    if not facts.has_unique_index and not facts.is_there(facts.helper()):
        yield _index_step(
            facts, facts.helper(), "an index by which duplicates are found, until the unique one is there"
        )


def _index_step(facts: Facts, index: WantedIndex, title: str | None = None, kind: str = INDEX) -> Step:
    found = facts.table.indexes.get(index.name)
    drop = [f"DROP INDEX CONCURRENTLY {facts.names.qualified(index.name)}"] if found and not found.is_valid else []
    return Step(
        kind=kind,
        title=title or f"the index {index.name}",
        lock=NOBODY_WAITS,
        size=f"{_rows(facts)} are read, twice",
        statements=[*drop, index.statement(facts.table).rstrip(";")],
        index=index,
    )


def _ending(facts: Facts, duplicates: Sequence[Duplicate] | None) -> Iterator[Step]:
    if not facts.ends_others:
        yield Step(
            kind=FUNCTIONS,
            title="from now on, what the application opens ends the pair's other conversations",
            lock=NO_LOCK,
            size="no row is written",
            statements=row_functions(facts.names, facts.table, ends_others=True),
            is_transaction=True,
        )
    if not facts.has_unique_index:
        size = "as many as there are" if duplicates is None else counted(len(duplicates), "conversation")
        yield Step(
            kind=DUPLICATES,
            title=f"of several open conversations of a pair the {facts.new.keep} stays, the others end; in batches",
            lock=ROWS_OF_A_BATCH,
            size=size,
            statements=[end_all_statement(facts.names, facts.new.keep)],
        )
        yield _index_step(
            facts, facts.unique(), "one open conversation per pair, guaranteed by the database", kind=UNIQUE
        )
    if HELPER_INDEX in facts.table.indexes or not facts.has_unique_index:
        yield Step(
            kind=DROP_HELPER,
            title="the index that found duplicates goes",
            lock=NOBODY_WAITS,
            size="one index",
            statements=[f"DROP INDEX CONCURRENTLY IF EXISTS {facts.names.qualified(HELPER_INDEX)}"],
        )


def _finishing(facts: Facts) -> Iterator[Step]:
    if facts.record is not None and facts.record.completed_at is not None and facts.has_version:
        return
    names, version = facts.names, facts.names.qualified(VERSION_TABLE)
    yield Step(
        kind=VACUUM,
        title="the space of old row versions, and statistics for the planner",
        lock=NOBODY_WAITS,
        size=_rows(facts),
        statements=[FLUSH_STATISTICS, f"VACUUM (ANALYZE) {names.conversations}"],
    )
    yield Step(
        kind=FINISH,
        title="the version of the schema: lapse's other commands take the database now",
        lock=NO_LOCK,
        size="two rows",
        statements=[
            f"CREATE TABLE IF NOT EXISTS {version} (version_num varchar(32) NOT NULL,\n"
            f"    CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))",
            f"ALTER TABLE {version} OWNER TO {quoted(facts.table.owner)}",
            # All three: an older lapse may have begun here.
            close_statement([names.events, names.qualified(ADOPTION_TABLE), version], keep_logins=False),
            f"INSERT INTO {version} VALUES ('{head_version()}') ON CONFLICT DO NOTHING",  # noqa: S608
            f"UPDATE {names.qualified(ADOPTION_TABLE)} SET completed_at = now() WHERE completed_at IS NULL",  # noqa: S608
        ],
        is_transaction=True,
    )
