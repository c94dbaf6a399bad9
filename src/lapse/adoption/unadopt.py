"""Going back: everything that adopting put on goes, the history into a file first, and the table is as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from psycopg import Connection
from psycopg.errors import UndefinedTable

from lapse.adoption.adopt import Adoption, Watcher, alone
from lapse.adoption.export import export_events
from lapse.adoption.facts import KEY_CONSTRAINT, Facts
from lapse.adoption.names import quoted
from lapse.adoption.plan import FOR_A_MOMENT, NOBODY_WAITS, Step
from lapse.adoption.pooling import require_own_session
from lapse.adoption.record import Record
from lapse.adoption.routines import drop_routines, restored
from lapse.adoption.waiting_for_locks import in_short_transaction
from lapse.errors import AdoptionError
from lapse.store.layout import ADOPTION_TABLE
from lapse.store.schema_version import VERSION_TABLE

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
            AdoptionError: the table was never adopted, workers are connected, the table stayed locked, or a pooler
                hands the session around.
            OSError: the file cannot be written.
        """
        connection = self.adoption.connection
        require_own_session(connection)
        with alone(connection, self.adoption.wait, watcher):
            facts = self.adoption.facts()
            if facts.record is None:
                raise AdoptionError("the table conversations is not adopted: there is nothing to take off")
            self._require_no_workers(connection)
            self._step(
                watcher,
                "the version of the schema goes: no worker begins from here on",
                FOR_A_MOMENT,
                lambda: connection.execute(f"DROP TABLE IF EXISTS {facts.names.qualified(VERSION_TABLE)}".encode()),
            )
            for index in self._indexes(facts):
                drop = f"DROP INDEX CONCURRENTLY IF EXISTS {facts.names.qualified(index)}".encode()
                self._step(
                    watcher,
                    f"the index {index} goes",
                    NOBODY_WAITS,
                    partial(connection.execute, drop),
                )
            return self._give_back(facts, facts.record, watcher)

    # --- inside -------------------------------------------------------------------------------------------------

    def _step(self, watcher: Watcher, title: str, lock: str, work: Callable[[], object]) -> None:
        self.adoption.wait(0)
        step = Step(kind=title, title=title, lock=lock, size="", statements=())
        with watcher.doing(step):
            work()

    def _require_no_workers(self, connection: Connection[Any]) -> None:
        workers = [str(pid) for (pid,) in connection.execute(_WORKERS)]
        if workers and not self.force:
            raise AdoptionError(
                f"lapse is still connected (pid {', '.join(workers)}): stop its workers and the applications that use "
                "it, then run this again, or with --force; nothing was changed"
            )

    def _indexes(self, facts: Facts) -> list[str]:
        names = [index.name for index in (*facts.wanted(), facts.unique(), facts.helper())]
        return [name for name in names if name in facts.table.indexes]

    def _give_back(self, facts: Facts, record: Record, watcher: Watcher) -> int:
        connection, names = self.adoption.connection, facts.names
        statements = give_back_statements(facts, record)
        exported = 0

        def work() -> None:
            connection.execute(f"LOCK TABLE {names.conversations}, {names.events} IN ACCESS EXCLUSIVE MODE".encode())
            row = connection.execute(f"SELECT count(*) FROM {names.events}".encode()).fetchone()  # noqa: S608
            if row is None or row[0] != exported:
                raise NewEventsError
            for statement in statements:
                connection.execute(statement.encode())

        def export() -> None:
            nonlocal exported
            exported = export_events(connection, names, self.file)

        while True:
            try:
                self._step(watcher, f"the history goes into {self.file}", "none", export)
            except UndefinedTable:
                raise AdoptionError(
                    f"the table {names.events} is gone, the history with it: make an empty one to go on"
                ) from None
            try:
                self._step(
                    watcher,
                    "lapse's columns, triggers, functions and tables go; the application's triggers are as before",
                    FOR_A_MOMENT,
                    lambda: in_short_transaction(
                        connection, names.conversations, work, wait=self.adoption.wait, tell=watcher.tell
                    ),
                )
            except NewEventsError:
                watcher.tell("there are new events: exporting again")
            else:
                return exported


def give_back_statements(facts: Facts, record: Record) -> list[str]:
    """Return the statements after which the schema is as it was before, whatever of lapse's is there."""
    names, before = facts.names, record.before
    changes = [f"DROP CONSTRAINT IF EXISTS {KEY_CONSTRAINT}"]
    changes += [f"DROP COLUMN IF EXISTS {quoted(name)}" for name in (*before.columns.values(), *before.optional)]
    changes.append(_options(before.options))
    if before.identity == "a":
        changes.append("ALTER COLUMN conv_id SET GENERATED ALWAYS")
    return [
        *drop_routines(names),
        *(
            statement
            for trigger in before.triggers
            if trigger["name"] in facts.table.triggers
            for statement in restored(trigger["definition"], trigger["enabled"])
        ),
        f"ALTER TABLE {names.conversations}\n    " + ",\n    ".join(changes),
        f"DROP TABLE {names.events}",
        f"DROP TABLE {names.qualified(ADOPTION_TABLE)}",
    ]


def _options(options: Sequence[str]) -> str:
    former = [option for option in options if option.startswith("fillfactor=")]
    return f"SET ({former[0]})" if former else "RESET (fillfactor)"
