"""Revert of an adoption: exports the history to a file, then restores the table's original definition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg.errors import DependentObjectsStillExist

from lapse.adoption.adopt import Adoption, ProgressReporter, exclusive_session
from lapse.adoption.adoption_record import begin_revert_statement
from lapse.adoption.export import Digest, check_new, digest_of, export_events
from lapse.adoption.lock_retries import with_lock_retries
from lapse.adoption.names import KEY_CONSTRAINT, Names, quoted
from lapse.adoption.plan import BRIEF_ACCESS_EXCLUSIVE, NO_LOCK, SHARE_UPDATE_EXCLUSIVE, Step
from lapse.adoption.preflight import check_revertible
from lapse.adoption.row_triggers import drop_triggers_and_functions, row_functions
from lapse.adoption.state import AdoptionState
from lapse.adoption.updated_at_triggers import insert_part, is_restricted, restore_statements
from lapse.errors import AdoptionError
from lapse.shutdown import STOP_GRACE_SECONDS
from lapse.store.table_locks import taking
from lapse.store.table_mapping import ADOPTION_TABLE, VERSION_TABLE

_WORKERS = """
    SELECT pid FROM pg_stat_activity
    WHERE application_name = 'lapse' AND datname = current_database() AND pid <> pg_backend_pid() ORDER BY pid"""


class NewEventsError(Exception):
    """Events were written after the export; it has to be repeated."""


@dataclass(kw_only=True)
class Revert:
    """One run of `lapse unadopt`."""

    adoption: Adoption
    file: Path
    """Receives the history as CSV."""
    force: bool = False
    """Revert even while lapse is connected elsewhere, or where the history is missing."""

    def run(self, progress: ProgressReporter) -> int:
        """Revert the adoption; return the number of exported events.

        Raises:
            AdoptionError: the table is not adopted, workers are connected, the history is missing, an object of the
                application depends on lapse's columns, the table stayed locked, or another adoption runs.
            InvalidInputError: the file exists, or its directory does not.
            Interrupted: a stop signal came; the completed steps are kept.
            OSError: the file cannot be written.
            psycopg.Error: the database refused, or the connection is lost.
        """
        check_revertible(self.adoption.store)
        with exclusive_session(self.adoption.connection, self.adoption.wait, progress):
            state = self.adoption.read_state()
            if state.record is None:
                raise AdoptionError("the table conversations is no longer adopted: there is no adoption to revert")
            if str(self.file.resolve()) != state.record.original.export:  # of an interrupted run
                check_new(self.file)
            self._require_no_workers()
            has_history = self._has_history(state.names)
            self._transaction(
                progress,
                "drop the schema version: no worker starts from here on",
                NO_LOCK,
                state,
                [
                    f"DROP TABLE IF EXISTS {state.names.qualified(VERSION_TABLE)}",
                    begin_revert_statement(state.names, str(self.file.resolve())),
                ],
            )
            self._drop_indexes(state, [str(state.unique_index().name)], progress)
            self._transaction(
                progress,
                "replace the trigger functions: a conversation that the application opens ends no others",
                NO_LOCK,
                state,
                row_functions(state.names, state.table, ends_others=False),
            )
            self._drop_indexes(
                state, [index.name for index in (*state.plain_indexes(), state.helper_index())], progress
            )
            return self._revert_table(self.adoption.read_state(), progress, has_history=has_history)

    # --- inside -------------------------------------------------------------------------------------------------

    def _require_no_workers(self) -> None:
        workers = [str(pid) for (pid,) in self.adoption.connection.execute(_WORKERS)]
        if workers and not self.force:
            raise AdoptionError(
                f"lapse is still connected (pid {', '.join(workers)}): stop its workers and the applications that use "
                "it, then run this again, or use --force; nothing was changed"
            )

    def _has_history(self, names: Names) -> bool:
        row = self.adoption.connection.execute("SELECT to_regclass(%s) IS NOT NULL", [names.events]).fetchone()
        has_history = row is not None and bool(row[0])
        if not (has_history or self.force):
            raise AdoptionError(
                f"the table {names.events} is missing, and the history with it: restore it from a backup, or use "
                "--force; nothing was changed"
            )
        return has_history

    def _drop_indexes(self, state: AdoptionState, indexes: Sequence[str], progress: ProgressReporter) -> None:
        """Drop the indexes that exist. The unique one comes first, while triggers still end duplicates."""
        for name in indexes:
            if name in state.table.indexes:
                drop = f"DROP INDEX CONCURRENTLY IF EXISTS {state.names.qualified(name)}"
                with self._step(progress, f"drop index {name}", SHARE_UPDATE_EXCLUSIVE):
                    self.adoption.run_long(drop, progress)

    @contextmanager
    def _step(self, progress: ProgressReporter, title: str, lock: str) -> Iterator[None]:
        self.adoption.wait(0)
        with progress.step(Step(kind=title, title=title, lock=lock, size="", statements=())):
            yield

    def _transaction(
        self,
        progress: ProgressReporter,
        title: str,
        lock: str,
        state: AdoptionState,
        work: Callable[[], None] | Sequence[str],
    ) -> None:
        adoption = self.adoption
        with self._step(progress, title, lock), adoption.interruptible(STOP_GRACE_SECONDS):
            with_lock_retries(
                adoption.connection, state.names.conversations, work, wait=adoption.wait, message=progress.message
            )

    def _revert_table(self, state: AdoptionState, progress: ProgressReporter, *, has_history: bool) -> int:
        connection, names = self.adoption.connection, state.names
        title = "drop lapse's columns, triggers, functions and tables; restore the application's triggers"

        def work() -> None:
            # The events first: counting them takes time, and the application no longer writes any.
            if exported is not None:
                connection.execute(f"LOCK TABLE {names.events} IN ACCESS EXCLUSIVE MODE".encode())
                if digest_of(connection, names) != exported:
                    raise NewEventsError
            for statement in revert_statements(state):
                connection.execute(statement.encode())

        while True:
            exported = self._export(names, progress) if has_history else None
            try:
                self._transaction(progress, title, BRIEF_ACCESS_EXCLUSIVE, state, work)
            except NewEventsError:
                progress.message("events were written after the export: exporting again")
            except DependentObjectsStillExist as error:
                raise AdoptionError(
                    f"{error.diag.message_primary} ({error.diag.message_detail}): no column was dropped; drop that "
                    "object, or define it without lapse's columns, then run this again"
                ) from None
            else:
                return exported.events if exported else 0

    def _export(self, names: Names, progress: ProgressReporter) -> Digest:
        with (
            self._step(progress, f"export the history to {self.file}", NO_LOCK),
            self.adoption.interruptible(STOP_GRACE_SECONDS),
        ):
            return export_events(self.adoption.connection, names, self.file)


def revert_statements(state: AdoptionState) -> list[str]:
    """Return the statements that restore the original schema, whatever parts of the adoption exist."""
    names, original = state.names, state.effective_record.original
    changes = [f"DROP CONSTRAINT IF EXISTS {KEY_CONSTRAINT}"]
    changes += [f"DROP COLUMN IF EXISTS {quoted(name)}" for name in (*original.columns.values(), *original.optional)]
    changes += _options(original.options, state.table.options)
    if original.identity == "a":
        changes.append("ALTER COLUMN conv_id SET GENERATED ALWAYS")
    return [
        *taking(names.conversations),
        *drop_triggers_and_functions(names),
        *(statement for trigger in original.triggers for statement in _restore_statements(state, trigger)),
        f"ALTER TABLE {names.conversations}\n    " + ",\n    ".join(changes),
        f"DROP TABLE IF EXISTS {names.events}",
        *([] if state.is_of_older_lapse else [f"DROP TABLE IF EXISTS {names.receipts}"]),
        f"DROP TABLE {names.qualified(ADOPTION_TABLE)}",
    ]


def _restore_statements(state: AdoptionState, original: Mapping[str, str]) -> list[str]:
    """Return the statements that restore a trigger, unless the application has dropped or changed it since."""
    trigger = state.table.triggers.get(original["name"])
    if trigger is not None and is_restricted(trigger, state.names):
        return restore_statements(original["definition"], original["enabled"])
    return [f"DROP TRIGGER IF EXISTS {quoted(insert_part(original['name']))} ON {state.names.conversations}"]


def _options(original: Sequence[str], current: Sequence[str]) -> list[str]:
    """Return the changes that restore the fillfactor; other parameters are kept, in their original order."""
    before, after = (dict(option.split("=", 1) for option in options) for options in (original, current))
    after.pop("fillfactor", None)
    if "fillfactor" in before:
        after["fillfactor"] = before["fillfactor"]
    names = sorted(after, key=lambda name: [*before].index(name) if name in before else len(before))
    reset = ", ".join(dict.fromkeys(["fillfactor", *names]))
    values = ", ".join(f"{name} = '{after[name]}'" for name in names)
    return [f"RESET ({reset})", *([f"SET ({values})"] if values else [])]
