"""`/readyz` tells the truth each time, however many ask: whether a worker could do its work in this database now."""

from __future__ import annotations

import atexit
import os
import pwd
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from lapse import Database
from lapse.http import WorkerApp
from lapse.store import migrate, schema_version
from tests.chaos.disks import read_only, small_disk
from tests.support.commands import environment
from tests.support.http_client import ask
from tests.support.pgbouncer import require_pgbouncer, running_pgbouncer, through_pooler
from tests.support.postgres import Server
from tests.support.postgres_process import running_server
from tests.support.proxy import Proxy
from tests.support.sql import run_sql, transaction
from tests.support.waiting import until
from tests.support.workers import worker_on

READY = (200, "ready: the database answers and has the right schema\n")
TOO_LATE = (503, "not ready: the database has not answered within 2 seconds\n")
ONLY_READS = (503, "not ready: the database is not available: this session only reads\n")


@contextmanager
def app_on(url: str) -> Iterator[WorkerApp]:
    with worker_on(url) as worker:
        yield WorkerApp(worker)


def ask_at_once(app: WorkerApp, number: int) -> set[tuple[int, str]]:
    """Ask so many times at the same moment, and return the different answers."""
    start = threading.Barrier(number)

    def probe(_number: int) -> tuple[int, str]:
        start.wait()
        return ask(app, "/readyz")

    with ThreadPoolExecutor(number) as pool:
        return set(pool.map(probe, range(number)))


def test_a_cut_connection_is_no_database_that_is_away(postgres_url: str) -> None:
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid != "
    with app_on(postgres_url) as app, closing(Database(postgres_url)) as database:
        for _ in range(3):
            assert ask(app, "/readyz") == READY
            run_sql(database, cut + "pg_backend_pid()")


def test_a_probe_leaves_nothing_in_memory(database_url: str) -> None:
    with worker_on(database_url) as worker:
        app, engine = WorkerApp(worker), worker.conversation_service.database.engine

        def kept() -> tuple[int, int, int]:
            assert ask(app, "/readyz")[0] == 200
            return atexit._ncallbacks(), len(engine._compiled_cache or ()), threading.active_count()

        kept()
        before = kept()
        assert [kept() for _ in range(5)] == [before] * 5


# --- several at once ------------------------------------------------------------------------------------------------


def test_the_first_ones_ever_are_told_the_truth_however_many_come_at_once(database_url: str) -> None:
    with app_on(database_url) as app:
        assert ask_at_once(app, 10) == {READY}


def test_no_probe_is_given_an_answer_from_before_the_database_hung(postgres_url: str) -> None:
    with app_on(postgres_url) as app, closing(Database(postgres_url)) as database:
        assert ask(app, "/readyz") == READY
        with transaction(database) as connection:
            connection.execute(sa.text("LOCK TABLE lapse_schema_version IN ACCESS EXCLUSIVE MODE"))
            begin = time.monotonic()
            assert ask_at_once(app, 10) == {TOO_LATE}
            assert 1.9 < time.monotonic() - begin < 4
            begin = time.monotonic()
            assert ask_at_once(app, 10) == {TOO_LATE}
            assert time.monotonic() - begin < 1, "nobody waits for what has hung for so long"
        until(lambda: ask_at_once(app, 10) == {READY})  # the question that hung is answered first


def test_probes_while_the_database_hangs_are_one_question_to_it(postgres_url: str) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with app_on(postgres_url) as app, closing(Database(postgres_url)) as database:
        assert ask(app, "/readyz") == READY
        with transaction(database) as connection:
            connection.execute(sa.text("LOCK TABLE lapse_schema_version IN ACCESS EXCLUSIVE MODE"))
            for _ in range(2):
                assert ask_at_once(app, 5) == {TOO_LATE}
                assert connection.execute(sa.text(waiting)).scalar_one() == 1
        until(lambda: ask(app, "/readyz") == READY)


def test_an_outage_is_told_to_all_probes_that_come_next(postgres_url: str) -> None:
    proxy = Proxy(postgres_url)
    proxy.open()
    try:
        with app_on(proxy.url) as app:
            assert ask_at_once(app, 2) == {READY}
            proxy.close()
            assert {status for status, _ in ask_at_once(app, 2)} == {503}
            proxy.open()
            assert ask_at_once(app, 2) == {READY}
    finally:
        proxy.close()


# --- a database that only reads -------------------------------------------------------------------------------------


def test_a_database_that_only_reads_is_not_ready_until_it_writes_again(postgres_url: str) -> None:
    """Also on the sessions that were opened meanwhile, which go on reading only."""
    with closing(Database(postgres_url)) as database, app_on(postgres_url) as app:
        name = sa.make_url(postgres_url).database
        run_sql(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        assert ask(app, "/readyz") == ask(app, "/readyz") == ONLY_READS
        run_sql(database, f"SET TRANSACTION READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only")
        assert ask(app, "/readyz") == READY


def test_a_standby_is_not_ready() -> None:
    with running_server() as server:
        url = Server("standby", server.admin_url).create_database("lapse_test_standby")
        with closing(Database(url)) as database, app_on(url) as app:
            migrate(database)
            assert ask(app, "/readyz") == READY
            server.stop("fast")
            (server.data / "standby.signal").touch()
            server.start()
            said = "the database is not available: this server is a standby, which only reads"
            assert ask(app, "/readyz") == (503, f"not ready: {said}\n")


PROBE_AS_NOBODY = """
import os, sys
from tests.support.http_client import ask
from tests.support.workers import worker_on
from lapse.http import WorkerApp

def probe():
    with worker_on(sys.argv[1]) as worker:
        return ask(WorkerApp(worker), "/readyz")

if os.getuid() == 0:
    probe()  # imports all there is, which `nobody` may not be able to
    os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
print(*probe(), end="")
"""


@pytest.mark.parametrize(
    ("modes", "said"),
    [
        ({}, "200 ready: the database answers and has the right schema"),
        ({"lapse.db": 0o444}, "503 not ready: the SQLite file cannot be written: look at its owner, its mode and"),
        ({"lapse.db-wal": 0o444}, "503 not ready: the SQLite file cannot be written: look at its owner, its mode and"),
        ({".": 0o555}, "503 not ready: the folder of the SQLite file cannot be written: SQLite keeps files beside it"),
    ],
    ids=str,
)
def test_a_sqlite_file_is_ready_where_it_and_its_folder_can_be_written(modes: dict[str, int], said: str) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    with small_disk(8) as disk, closing(Database(f"sqlite:///{disk.folder}/lapse.db")) as database:
        migrate(database)
        reader = sqlite3.connect(disk.folder / "lapse.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM conversations").fetchall()  # the files beside it stay as long as it reads
        # Of an empty one SQLite would put the mode right.
        run_sql(database, "UPDATE lapse_schema_version SET version_num = version_num")
        for path in (disk.folder, *disk.folder.iterdir()):
            os.chown(path, nobody, -1)
        for name, mode in modes.items():
            (disk.folder / name).chmod(mode)
        command = [sys.executable, "-c", PROBE_AS_NOBODY, str(database.engine.url), str(nobody)]
        env = environment({"PYTHONPATH": ":".join(sys.path)})
        ran = subprocess.run(command, cwd=disk.folder, env=env, capture_output=True, text=True, check=False)
        reader.close()
        assert ran.stdout.startswith(said), ran
        disk.folder.chmod(0o755)


def test_a_sqlite_file_where_nothing_can_be_written_is_not_ready() -> None:
    with small_disk(8) as disk, closing(Database(f"sqlite:///{disk.folder}/lapse.db")) as database:
        migrate(database)
        schema_version(database)
        with read_only(disk.folder) as folder, app_on(f"sqlite:///{folder}/lapse.db") as app:
            said = "the SQLite file cannot be written: look at its owner, its mode and its file system"
            assert ask(app, "/readyz") == (503, f"not ready: {said}\n")


def test_a_probe_makes_no_sqlite_file(tmp_path: Path) -> None:
    with app_on(f"sqlite:///{tmp_path}/lapse.db") as app:
        said = "The database has no lapse schema yet: run `lapse migrate`."
        assert ask(app, "/readyz") == (503, f"not ready: {said}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_writer_of_a_sqlite_file_does_not_hold_the_answer_up(tmp_path: Path, new_database: object) -> None:
    with closing(Database(new_database("sqlite"))) as database, app_on(str(database.engine.url)) as app:  # type: ignore[operator]
        assert ask(app, "/readyz") == READY
        with transaction(database) as connection:
            connection.execute(sa.text("DELETE FROM conversations"))
            begin = time.monotonic()
            assert ask(app, "/readyz") == READY
            assert time.monotonic() - begin < 0.2  # before SQLite's own first wait is over


# --- what it costs --------------------------------------------------------------------------------------------------


class CountingProxy(Proxy):
    """Counts what is sent to the database: each time an answer is waited for."""

    sent = 0

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        self._start(self._forward_counted, client, server)
        self._start(self._forward, server, client)

    def _forward_counted(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                self.sent += 1
                server.sendall(data)


def test_a_question_is_three_round_trips(postgres_url: str) -> None:
    proxy = CountingProxy(postgres_url)
    proxy.open()
    try:
        with app_on(proxy.url) as app:
            for _ in range(2):  # connects, and looks at the layout
                assert ask(app, "/readyz") == READY
            before = proxy.sent
            assert ask(app, "/readyz") == READY
            assert 0 < proxy.sent - before <= 3
    finally:
        proxy.close()


def test_a_table_that_somebody_has_locked_does_not_hold_the_answer_up(postgres_url: str) -> None:
    with app_on(postgres_url) as app, closing(Database(postgres_url)) as database, transaction(database) as connection:
        connection.execute(sa.text("LOCK TABLE conversations, conversation_events IN ACCESS EXCLUSIVE MODE"))
        assert ask(app, "/readyz") == READY


def test_it_is_asked_through_a_pooler_of_transactions(postgres_url: str) -> None:
    require_pgbouncer()
    with running_pgbouncer(postgres_url) as pooler, app_on(through_pooler(pooler, postgres_url)) as app:
        assert ask_at_once(app, 10) == {READY}
        assert ask(app, "/readyz") == READY
