"""Going back: everything that adopting put on goes, the history into a file first, and the table is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg.errors import DependentObjectsStillExist

from lapse.adoption.adopt import Adoption, Watcher, alone
from lapse.adoption.export import Digest, check_new, digest_of, export_events
from lapse.adoption.facts import Facts
from lapse.adoption.names import KEY_CONSTRAINT, Names, quoted
from lapse.adoption.plan import FOR_A_MOMENT, NO_LOCK, NOBODY_WAITS, Step
from lapse.adoption.record import returning_statement
from lapse.adoption.refusing import check_returnable
from lapse.adoption.row_triggers import drop_routines, row_functions
from lapse.adoption.updated_at_triggers import insert_part, is_narrowed, restored
from lapse.adoption.waiting_for_locks import in_short_transaction
from lapse.errors import AdoptionError
from lapse.shutdown import STOP_GRACE_SECONDS
from lapse.store.layout import ADOPTION_TABLE, VERSION_TABLE
from lapse.store.table_locks import taking

_WORKERS = """
    SELECT pid FROM pg_stat_activity
    WHERE application_name = 'lapse' AND datname = current_database() AND pid <> pg_backend_pid() ORDER BY pid"""


class NewEventsError(Exception):
    """Events were written after the export."""


@dataclass(kw_only=True)
class Return:
    """One run of `lapse unadopt`."""

    adoption: Adoption
    file: Path
    force: bool = False

    def run(self, watcher: Watcher) -> int:
        """Take everything off; return how many events were exported.

        Raises:
            AdoptionError: the table was never adopted, workers are connected, or the table stayed locked.
            InvalidInputError: the file is there already, or its folder is not.
            Interrupted: a stop signal came; what was taken off stays so.
            OSError: the file cannot be written.
        """
        check_returnable(self.adoption.store)
        with alone(self.adoption.connection, self.adoption.wait, watcher):
            facts = self.adoption.facts()
            if facts.record is None:
                raise AdoptionError("the table conversations is not adopted any more: there is nothing to take off")
            if str(self.file.resolve()) != facts.record.before.export:  # an earlier run's, which was interrupted
                check_new(self.file)
            self._require_no_workers()
            has_history = self._has_history(facts.names)
            self._short(
                watcher,
                "the version of the schema goes: no worker begins from here on",
                NO_LOCK,
                facts,
                [
                    f"DROP TABLE IF EXISTS {facts.names.qualified(VERSION_TABLE)}",
                    returning_statement(facts.names, str(self.file.resolve())),
                ],
            )
            self._drop(facts, [str(facts.unique().name)], watcher)
            self._short(
                watcher,
                "what the application opens ends no other conversation any more",
                NO_LOCK,
                facts,
                row_functions(facts.names, facts.table, ends_others=False),
            )
            self._drop(facts, [index.name for index in (*facts.wanted(), facts.helper())], watcher)
            return self._give_back(self.adoption.facts(), watcher, has_history=has_history)

    # --- inside -------------------------------------------------------------------------------------------------

    def _require_no_workers(self) -> None:
        workers = [str(pid) for (pid,) in self.adoption.connection.execute(_WORKERS)]
        if workers and not self.force:
            raise AdoptionError(
                f"lapse is still connected (pid {', '.join(workers)}): stop its workers and the applications that use "
                "it, then run this again, or with --force; nothing was changed"
            )

    def _has_history(self, names: Names) -> bool:
        found = self.adoption.connection.execute("SELECT to_regclass(%s) IS NOT NULL", [names.events]).fetchone()
        has_history = found is not None and bool(found[0])
        if not (has_history or self.force):
            raise AdoptionError(
                f"the table {names.events} is gone, and the history with it: restore it from a backup, or run this "
                "with --force; nothing was changed"
            )
        return has_history

    def _drop(self, facts: Facts, indexes: Sequence[str], watcher: Watcher) -> None:
        """Drop those of the indexes that are there. The unique one goes while others still end: nothing is refused."""
        for name in indexes:
            if name in facts.table.indexes:
                drop = f"DROP INDEX CONCURRENTLY IF EXISTS {facts.names.qualified(name)}"
                with self._doing(watcher, f"the index {name} goes", NOBODY_WAITS):
                    self.adoption.run_long(drop, watcher)

    @contextmanager
    def _doing(self, watcher: Watcher, title: str, lock: str) -> Iterator[None]:
        self.adoption.wait(0)
        with watcher.doing(Step(kind=title, title=title, lock=lock, size="", statements=())):
            yield

    def _short(
        self, watcher: Watcher, title: str, lock: str, facts: Facts, work: Callable[[], None] | Sequence[str]
    ) -> None:
        adoption = self.adoption
        with self._doing(watcher, title, lock), adoption.interruptible(STOP_GRACE_SECONDS):
            in_short_transaction(
                adoption.connection, facts.names.conversations, work, wait=adoption.wait, tell=watcher.tell
            )

    def _give_back(self, facts: Facts, watcher: Watcher, *, has_history: bool) -> int:
        connection, names = self.adoption.connection, facts.names
        title = "lapse's columns, triggers, functions and tables go; the application's triggers are as before"

        def work() -> None:
            # The events first: to count them may take a while, and the application writes none any more.
            if exported is not None:
                connection.execute(f"LOCK TABLE {names.events} IN ACCESS EXCLUSIVE MODE".encode())
                if digest_of(connection, names) != exported:
                    raise NewEventsError
            for statement in give_back_statements(facts):
                connection.execute(statement.encode())

        while True:
            exported = self._export(names, watcher) if has_history else None
            try:
                self._short(watcher, title, FOR_A_MOMENT, facts, work)
            except NewEventsError:
                watcher.tell("there are new events: exporting again")
            except DependentObjectsStillExist as error:
                raise AdoptionError(
                    f"{error.diag.message_primary} ({error.diag.message_detail}): nothing of it was taken off; drop "
                    "that, or make it without lapse's columns, and run this again"
                ) from None
            else:
                return exported.events if exported else 0

    def _export(self, names: Names, watcher: Watcher) -> Digest:
        with (
            self._doing(watcher, f"the history goes into {self.file}", NO_LOCK),
            self.adoption.interruptible(STOP_GRACE_SECONDS),
        ):
            return export_events(self.adoption.connection, names, self.file)


def give_back_statements(facts: Facts) -> list[str]:
    """Return the statements after which the schema is as it was before, whatever of lapse's is there."""
    names, before = facts.names, facts.new.before
    changes = [f"DROP CONSTRAINT IF EXISTS {KEY_CONSTRAINT}"]
    changes += [f"DROP COLUMN IF EXISTS {quoted(name)}" for name in (*before.columns.values(), *before.optional)]
    changes += _options(before.options, facts.table.options)
    if before.identity == "a":
        changes.append("ALTER COLUMN conv_id SET GENERATED ALWAYS")
    return [
        *taking(names.conversations),
        *drop_routines(names),
        *(statement for trigger in before.triggers for statement in _restored(facts, trigger)),
        f"ALTER TABLE {names.conversations}\n    " + ",\n    ".join(changes),
        f"DROP TABLE IF EXISTS {names.events}",
        f"DROP TABLE {names.qualified(ADOPTION_TABLE)}",
    ]


def _restored(facts: Facts, before: Mapping[str, str]) -> list[str]:
    """Return the statements that make a trigger what it was, unless the application has dropped or changed it since."""
    found = facts.table.triggers.get(before["name"])
    if found is not None and is_narrowed(found, facts.names):
        return restored(before["definition"], before["enabled"])
    return [f"DROP TRIGGER IF EXISTS {quoted(insert_part(before['name']))} ON {facts.names.conversations}"]


def _options(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Return the changes after which the fillfactor is as before; the others stay, in the order that they had."""
    former, kept = (dict(option.split("=", 1) for option in options) for options in (before, now))
    kept.pop("fillfactor", None)
    if "fillfactor" in former:
        kept["fillfactor"] = former["fillfactor"]
    names = sorted(kept, key=lambda name: [*former].index(name) if name in former else len(former))
    reset = ", ".join(dict.fromkeys(["fillfactor", *names]))
    values = ", ".join(f"{name} = '{kept[name]}'" for name in names)
    return [f"RESET ({reset})", *([f"SET ({values})"] if values else [])]
