"""What all tests share: databases of both kinds, a clock, and an environment without the developer's settings."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.chaos import scale
from tests.support import citus
from tests.support.clock import ManualClock
from tests.support.pgbouncer import PROGRAM, running_pgbouncer, through_pooler
from tests.support.postgres import Server, Servers
from tests.support.postgres_process import NoServerError
from tests.support.reused_databases import empty, state_of

if TYPE_CHECKING:
    from lapse import ConversationService
    from lapse.store import Database

SQLITE = "sqlite"
POOLED = "-pgbouncer"
THREADS, ASYNCIO = "threads", "asyncio"
UNIT_TESTS = Path(__file__).parent / "unit"
CONFORMANCE_TESTS = Path(__file__).parent / "conformance"
SERVERS = pytest.StashKey[Servers]()
CLUSTER = pytest.StashKey[citus.Cluster | None]()

# `ci` finds the same thing on every machine, and judges nothing by a machine's speed. `explore` looks further.
hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    print_blob=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("explore", max_examples=2_000, print_blob=True, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# --- servers: started once, by the one process that hands out the tests -------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    scale.seed()  # drawn before there are workers of pytest-xdist, which inherit it
    servers = config.stash[SERVERS] = Servers()
    config.stash[CLUSTER] = None
    if handed_down := getattr(config, "workerinput", {}).get("lapse_servers"):
        servers.run_id = handed_down["run_id"]
        servers.by_name = {name: Server(name, url) for name, url in handed_down["urls"].items()}
        servers.pooler_url = handed_down["pooler_url"]


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    # Ignored by what runs in the background of a shell, and so by each of its children, whom tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput") or _only_unit_tests(config):
        return
    # A CI that runs out of patience ends the servers too, like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # One database for all tests, so only where one process runs them.
        config.stash[CLUSTER] = None if _number_of_processes(config) else citus.Cluster.of_environment()
        config.stash[SERVERS].start()
        if PROGRAM is not None:
            config.stash[SERVERS].start_pooler(running_pgbouncer)
    except NoServerError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say on which databases the tests run, and on which they could but don't."""
    names = list(config.stash[SERVERS].by_name)
    if not names:
        return ["lapse backends: none, unit tests have no database"]
    if config.stash[CLUSTER]:
        on_citus = "tests/conformance"
    elif citus.URL_VARIABLE in os.environ:
        on_citus = "not run by several processes, run `pytest -m citus`"
    else:
        on_citus = f"not run, set {citus.URL_VARIABLE}"
    left_out = ", ".join(f"PostgreSQL {major}" for major in config.stash[SERVERS].left_out)
    without = f"; not {left_out}, which CI=true runs, too" if left_out else ""
    return [f"lapse backends: {', '.join([SQLITE, *names])}{without}; citus: {on_citus}", scale.described()]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the running servers down to a worker of pytest-xdist."""
    servers = node.config.stash[SERVERS]
    urls = {server.name: server.admin_url for server in servers.by_name.values()}
    node.workerinput["lapse_servers"] = {"run_id": servers.run_id, "urls": urls, "pooler_url": servers.pooler_url}


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVERS in config.stash:
        config.stash[SERVERS].stop()


def _number_of_processes(config: pytest.Config) -> int:
    """Return how many processes pytest-xdist runs beside this one."""
    return len(getattr(config.option, "tx", None) or [])


def _only_unit_tests(config: pytest.Config) -> bool:
    asked_for = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    return all(path.is_relative_to(UNIT_TESTS) for path in asked_for)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses `backend` or `postgres` once on each; conformance also pooled, on Citus and with asyncio."""
    servers = metafunc.config.stash[SERVERS]
    names: list[Any] = list(servers.by_name)
    is_conformance = metafunc.definition.path.is_relative_to(CONFORMANCE_TESTS)
    pooled = [f"{names[0]}{POOLED}"] if is_conformance and servers.pooler_url else []
    is_on_citus = is_conformance and metafunc.config.stash[CLUSTER]
    on_citus = [pytest.param(citus.NAME, marks=pytest.mark.citus)] if is_on_citus else []
    backends = [SQLITE, *names, *pooled, *on_citus]
    for argument, values in (("backend", backends), ("postgres", names)):
        if argument in metafunc.fixturenames:
            if not names:
                raise pytest.UsageError(f"{metafunc.definition.nodeid}: tests under tests/unit have no database")
            if argument == "backend" and is_conformance and "driver" in metafunc.fixturenames:
                # The service for event loops on one server: nothing but the driver differs.
                both = [*((backend, THREADS) for backend in [SQLITE, *names, *pooled])]
                both += [(backend, ASYNCIO) for backend in [SQLITE, *names[:1], *pooled]]
                params = [
                    pytest.param(*pair, id=f"{pair[0]}{'' if pair[1] == THREADS else '-asyncio'}") for pair in both
                ]
                params += [pytest.param(citus.NAME, THREADS, marks=pytest.mark.citus)] if is_on_citus else []
                metafunc.parametrize(("backend", "driver"), params)
            else:
                metafunc.parametrize(argument, values)


# --- databases ----------------------------------------------------------------------------------------------------


class _Databases:
    """Databases for one test process, as new; a migrated one is a copy of a template that is migrated once.

    One in which a test has left nothing but rows is handed out again, emptied: a copy takes ten times as long.
    """

    def __init__(self, servers: Servers, cluster: citus.Cluster | None, folder: Path, worker: str) -> None:
        self._servers = servers
        self._cluster = cluster
        self._folder = folder
        self._prefix = f"{servers.database_prefix}{worker}_"
        self._numbers = itertools.count(1)
        self._templates: dict[str, str] = {}
        self._states: dict[str, str] = {}
        self._free: dict[str, list[str]] = defaultdict(list)
        self._shared: dict[str, tuple[str, Callable[[], None], Any]] = {}
        self._last = 0

    def sqlite(self, path: Path, *, migrated: bool) -> str:
        if migrated:
            if SQLITE not in self._templates:
                template = self._folder / "template.db"
                _migrate(f"sqlite:///{template}")
                assert not template.with_name("template.db-wal").exists(), "migrate left the database open"
                self._templates[SQLITE] = str(template)
            shutil.copyfile(self._templates[SQLITE], path)
        return f"sqlite:///{path}"

    def postgres(self, name: str, *, migrated: bool) -> tuple[str, Callable[[], None]]:
        """Return the URL of a database without rows, and what takes it back."""
        is_pooled, name = name.endswith(POOLED), name.removesuffix(POOLED)
        server = self._servers.by_name[name]
        if migrated and name not in self._templates:
            self._templates[name] = f"{self._prefix}template"
            url = server.create_database(self._templates[name])
            _migrate(url)
            self._states[name] = state_of(url)
        if migrated and not is_pooled and self._free[name]:
            return self._for_a_test(server, self._free[name].pop())
        self._last = next(self._numbers)
        database = f"{self._prefix}{self._last}"
        url = server.create_database(database, self._templates[name] if migrated else "template0")
        if is_pooled and self._servers.pooler_url:
            url = through_pooler(self._servers.pooler_url, url)
        elif migrated:
            return self._for_a_test(server, database)
        return url, lambda: server.drop_database(database)

    def _for_a_test(self, server: Server, database: str) -> tuple[str, Callable[[], None]]:
        url = server.url_of(database)

        def take_back() -> None:
            if empty(url, self._states[server.name]):
                self._free[server.name].append(database)
            else:
                server.drop_database(database)

        return url, take_back

    def emptied(self, name: str) -> str:
        """Return the URL of this process's one database with lapse's schema, emptied: a new one takes half a second."""
        import psycopg

        if name not in self._shared:
            url, drop = self.postgres(name, migrated=True)
            # Whoever has left a lock on the tables is to be found out, not waited for.
            server = self._servers.by_name[name.removesuffix(POOLED)]
            direct = server.url_of(f"{self._prefix}{self._last}") if name.endswith(POOLED) else url
            uri = direct.replace("+psycopg", "")
            connection = psycopg.connect(uri, autocommit=True, options="-c lock_timeout=5s")
            self._shared[name] = (url, drop, connection)
        url, _, connection = self._shared[name]
        connection.execute("TRUNCATE conversations, conversation_events, message_receipts")
        return url

    def citus(self, *, migrated: bool) -> str:
        """Return the URL of the cluster's database, emptied: the one before is the same."""
        assert self._cluster
        assert migrated, "on Citus there are no databases without tables"
        return self._cluster.emptied()

    def close(self) -> None:
        for _, drop, connection in self._shared.values():
            connection.close()
            drop()
        for name, free in self._free.items():
            for database in free:
                self._servers.by_name[name].drop_database(database)
        for name, template in self._templates.items():
            if name != SQLITE:
                self._servers.by_name[name].drop_database(template)


def _migrate(url: str) -> None:
    from lapse.store import Database, migrate

    database = Database(url)
    try:
        migrate(database)
    finally:
        database.close()


@pytest.fixture(scope="session")
def _databases(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Databases]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    stash = pytestconfig.stash
    databases = _Databases(stash[SERVERS], stash[CLUSTER], tmp_path_factory.mktemp("template"), worker)
    yield databases
    databases.close()


NewDatabase = Callable[..., str]


@pytest.fixture
def new_database(_databases: _Databases, tmp_path: Path, request: pytest.FixtureRequest) -> NewDatabase:
    """Make fresh databases, for tests that need several: `new_database(backend, migrated=True)` returns a URL."""
    paths = (tmp_path / f"lapse{number or ''}.db" for number in itertools.count())

    def make(backend: str, *, migrated: bool = True) -> str:
        if backend == SQLITE:
            return _databases.sqlite(next(paths), migrated=migrated)
        if backend == citus.NAME:
            return _databases.citus(migrated=migrated)
        url, drop = _databases.postgres(backend, migrated=migrated)
        request.addfinalizer(drop)
        return url

    return make


@pytest.fixture
def database_url(
    new_database: NewDatabase, backend: str, _databases: _Databases, request: pytest.FixtureRequest
) -> str:
    """Return the URL of a database with lapse's schema and no rows.

    The conformance tests, which are many and change rows only, share one in each process.
    """
    is_shared = request.path.is_relative_to(CONFORMANCE_TESTS) and backend not in (SQLITE, citus.NAME)
    return _databases.emptied(backend) if is_shared else new_database(backend)


@pytest.fixture
def empty_database_url(new_database: NewDatabase, backend: str) -> str:
    """Return the URL of a fresh database without any table."""
    return new_database(backend, migrated=False)


@pytest.fixture
def postgres_url(new_database: NewDatabase, postgres: str) -> str:
    """Return the URL of a fresh database with lapse's schema, on PostgreSQL only."""
    return new_database(postgres)


@pytest.fixture
def empty_postgres_url(new_database: NewDatabase, postgres: str) -> str:
    """Return the URL of a fresh database without any table, on PostgreSQL only."""
    return new_database(postgres, migrated=False)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Return an open `Database` with lapse's schema; its clock is the real one."""
    from lapse.store import Database

    opened = Database(database_url)
    yield opened
    opened.close()


# --- the clock, the service, the environment ----------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that stands at noon of 5 January 2026, UTC."""
    return ManualClock()


@pytest.fixture
def driver() -> str:
    """Return what `service` is: for threads, or for an event loop; the conformance tests run on both."""
    return THREADS


OpenService = Callable[..., "ConversationService"]


@pytest.fixture
def open_service(driver: str) -> Iterator[OpenService]:
    """Open services that are closed after the test: `open_service(url, clock=…, settings=…)`, each what `driver` is."""
    from lapse import ConversationService
    from tests.support.loop_database import LoopDatabase, LoopService

    with ExitStack() as stack:

        def opened(url: str, **options: Any) -> ConversationService:
            if driver == ASYNCIO:
                database = LoopDatabase(url, options.pop("clock", None))
                return stack.enter_context(LoopService(database, **options))
            return stack.enter_context(ConversationService(url, **options))

        yield opened


@pytest.fixture
def service(database_url: str, clock: ManualClock, open_service: OpenService) -> ConversationService:
    """Return a service on a fresh database, in the time of `clock`."""
    return open_service(database_url, clock=clock)


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the developer's settings, `.env` and `lapse.db` out of the tests, and the tests out of them."""
    for name in list(os.environ):
        if name in {"LAPSE_DATABASE_URL", "DATABASE_URL", "LOG_LEVEL", "LAPSE_HTTP"} or name.startswith(
            ("BACKGROUND_TASK_", "CONVERSATION_", "OTEL_")
        ):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
