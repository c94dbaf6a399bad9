"""The plan of an adoption: its remaining steps in order, each with its SQL, its lock and its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lapse.adoption.backfill import batch_statement
from lapse.adoption.duplicates import Duplicate, end_all_statement
from lapse.adoption.findings import counted
from lapse.adoption.install import install_statements, repair_statements
from lapse.adoption.names import HELPER_INDEX, KEY_CONSTRAINT, quoted
from lapse.adoption.row_triggers import row_functions
from lapse.adoption.state import AdoptionState
from lapse.adoption.wanted_indexes import WantedIndex
from lapse.store.operations.schema import head_version
from lapse.store.table_access import close_statement
from lapse.store.table_locks import LOCK_TIMEOUT_MS, taking
from lapse.store.table_mapping import ADOPTION_TABLE, VERSION_TABLE

SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE on the table: blocks neither reads nor writes"
BRIEF_ACCESS_EXCLUSIVE = (
    f"ACCESS EXCLUSIVE on the table for some milliseconds; each attempt waits at most {LOCK_TIMEOUT_MS} ms for it"
)
ROW_LOCKS = "the rows of one batch, for about 50 ms; rows that others have locked are skipped and retried"
NO_LOCK = "none on the table"

FLUSH_STATISTICS = """DO $$BEGIN
    -- This session's count of dead rows, which would otherwise be added to the statistics after the vacuum.
    IF to_regproc('pg_stat_force_next_flush') IS NOT NULL THEN PERFORM pg_stat_force_next_flush(); END IF;
END$$"""
INSTALL, REPAIR, BACKFILL, CONSTRAINT, VALIDATE = "install", "repair", "backfill", "constraint", "validate"
INDEX, FUNCTIONS, DUPLICATES, UNIQUE = "index", "functions", "duplicates", "unique index"
DROP_HELPER, VACUUM, FINISH = "drop helper", "vacuum", "finish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the plan."""

    kind: str
    title: str
    """What is executed, for people."""
    lock: str
    size: str
    """How much is read or written, for people."""
    statements: Sequence[str]
    is_transaction: bool = False
    """All statements are one transaction, which is retried until its lock is available."""
    index: WantedIndex | None = None
    """The index that the step creates; None for other steps."""

    @property
    def key(self) -> str:
        """Return what identifies the step within a plan."""
        return f"{self.kind} {self.index.name}" if self.index else self.kind


def plan(state: AdoptionState, duplicates: Sequence[Duplicate] | None = None) -> list[Step]:
    """Return the remaining steps; none where the table is adopted.

    Args:
        state: of the adoption.
        duplicates: the conversations that will end; None where they were not determined.

    Raises:
        AdoptionError: another index has the name of one of lapse's, or a name contains the quotes of its functions.
        psycopg.Error: the database refused, or the connection is lost.
    """
    return [*_row_steps(state), *_index_steps(state), *_duplicate_steps(state, duplicates), *_final_steps(state)]


def _table_size(state: AdoptionState) -> str:
    rows = state.table.rows
    return (
        f"about {counted(rows, 'row')}, {counted(state.table.pages, 'page')} of 8 KiB"
        if rows >= 0
        else (f"{counted(state.table.pages, 'page')} of 8 KiB")
    )


def _row_steps(state: AdoptionState) -> Iterator[Step]:
    names = state.names
    if state.record is None:
        yield Step(
            kind=INSTALL,
            title="add lapse's columns, and create its tables, functions and triggers",
            lock=BRIEF_ACCESS_EXCLUSIVE,
            size="no row is written",
            statements=install_statements(state),
            is_transaction=True,
        )
    elif not state.is_installed:
        yield Step(
            kind=REPAIR,
            title="recreate columns, functions and triggers that are missing or have changed",
            lock=BRIEF_ACCESS_EXCLUSIVE,
            size="no row is written",
            statements=repair_statements(state),
            is_transaction=True,
        )
    if state.record is None or not state.is_backfilled:
        yield Step(
            kind=BACKFILL,
            title="backfill the session key and the idle deadline of every row, in batches of pages",
            lock=ROW_LOCKS,
            size=_table_size(state),
            statements=[batch_statement(names, 0, state.table.pages)],
        )
    key = names.column("session_key")
    if KEY_CONSTRAINT not in state.table.constraints:
        yield Step(
            kind=CONSTRAINT,
            title=f"add constraint {KEY_CONSTRAINT} (NOT VALID)",
            lock=BRIEF_ACCESS_EXCLUSIVE,
            size="no row is read",
            statements=[
                *taking(names.conversations),
                f"ALTER TABLE {names.conversations} ADD CONSTRAINT {KEY_CONSTRAINT}\n"
                f"    CHECK ({key} IS NOT NULL) NOT VALID",
            ],
            is_transaction=True,
        )
    if not state.is_constraint_valid:
        yield Step(
            kind=VALIDATE,
            title=f"validate constraint {KEY_CONSTRAINT}",
            lock=SHARE_UPDATE_EXCLUSIVE,
            size=f"{_table_size(state)} are read",
            statements=[f"ALTER TABLE {names.conversations} VALIDATE CONSTRAINT {KEY_CONSTRAINT}"],
        )


def _index_steps(state: AdoptionState) -> Iterator[Step]:
    for index in state.plain_indexes():
        if not state.has_index(index):
            yield _index_step(state, index)
    if not state.has_unique_index and not state.has_index(state.helper_index()):
        yield _index_step(state, state.helper_index(), purpose="temporary, to find duplicates")


def _index_step(state: AdoptionState, index: WantedIndex, *, purpose: str = "", kind: str = INDEX) -> Step:
    existing = state.table.indexes.get(index.name)
    is_invalid = existing is not None and not existing.is_valid
    drop = [f"DROP INDEX CONCURRENTLY {state.names.qualified(index.name)}"] if is_invalid else []
    return Step(
        kind=kind,
        title=f"create index {index.name}" + (f" ({purpose})" if purpose else ""),
        lock=SHARE_UPDATE_EXCLUSIVE,
        size=f"{_table_size(state)} are read, twice",
        statements=[*drop, index.statement(state.table).rstrip(";")],
        index=index,
    )


def _duplicate_steps(state: AdoptionState, duplicates: Sequence[Duplicate] | None) -> Iterator[Step]:
    if not state.ends_others:
        yield Step(
            kind=FUNCTIONS,
            title="replace the trigger functions: a conversation that the application opens ends the pair's other ones",
            lock=NO_LOCK,
            size="no row is written",
            statements=row_functions(state.names, state.table, ends_others=True),
            is_transaction=True,
        )
    if not state.has_unique_index:
        size = "all duplicates" if duplicates is None else counted(len(duplicates), "conversation")
        yield Step(
            kind=DUPLICATES,
            title=f"end duplicates: keep the {state.effective_record.keep} open conversation of each pair, in batches",
            lock=ROW_LOCKS,
            size=size,
            statements=[end_all_statement(state.names, state.effective_record.keep)],
        )
        yield _index_step(state, state.unique_index(), purpose="unique: one open conversation per pair", kind=UNIQUE)
    if HELPER_INDEX in state.table.indexes or not state.has_unique_index:
        yield Step(
            kind=DROP_HELPER,
            title=f"drop index {HELPER_INDEX}",
            lock=SHARE_UPDATE_EXCLUSIVE,
            size="one index",
            statements=[f"DROP INDEX CONCURRENTLY IF EXISTS {state.names.qualified(HELPER_INDEX)}"],
        )


def _final_steps(state: AdoptionState) -> Iterator[Step]:
    if state.record is not None and state.record.completed_at is not None and state.has_version_table:
        return
    names, version = state.names, state.names.qualified(VERSION_TABLE)
    yield Step(
        kind=VACUUM,
        title="vacuum and analyze the table",
        lock=SHARE_UPDATE_EXCLUSIVE,
        size=_table_size(state),
        statements=[FLUSH_STATISTICS, f"VACUUM (ANALYZE) {names.conversations}"],
    )
    yield Step(
        kind=FINISH,
        title="write the schema version: lapse's other commands accept the database from here on",
        lock=NO_LOCK,
        size="two rows",
        statements=[
            f"CREATE TABLE IF NOT EXISTS {version} (version_num varchar(32) NOT NULL,\n"
            f"    CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))",
            f"ALTER TABLE {version} OWNER TO {quoted(state.table.owner)}",
            # All of them: an older lapse may have begun the adoption.
            close_statement(
                [names.events, names.receipts, names.qualified(ADOPTION_TABLE), version], keep_logins=False
            ),
            f"INSERT INTO {version} VALUES ('{head_version()}') ON CONFLICT DO NOTHING",  # noqa: S608
            f"UPDATE {names.qualified(ADOPTION_TABLE)} SET completed_at = now() WHERE completed_at IS NULL",  # noqa: S608
        ],
        is_transaction=True,
    )
