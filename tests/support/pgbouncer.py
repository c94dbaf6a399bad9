"""PgBouncer in transaction mode in front of a test server: more clients than connections, as a pooler is for.

As root it runs as `nobody`, since it refuses to run as root. LAPSE_TEST_PGBOUNCER names another program than the one
on the path.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL, make_url

from tests.support.postgres_process import NoServerError, Prepare, give_to_server_user, server_user
from tests.support.require_program import missing

POOL_SIZE = 3
"""Server connections for each database: fewer than the clients of a test."""
PROGRAM = os.environ.get("LAPSE_TEST_PGBOUNCER") or shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
MISSING = "there is no PgBouncer on this machine (the package `pgbouncer` of Debian and others has it)"
_START_SECONDS = 20


def require_pgbouncer() -> None:
    """Skip the test where there is none, for all to see; where CI asks for everything, fail."""
    if PROGRAM is None:
        missing(MISSING)


@contextlib.contextmanager
def running_pgbouncer(server_url: str, prepare: Prepare = lambda _folder: {}) -> Iterator[str]:
    """Run a pooler in front of a server, all of whose databases it serves, and yield its admin URL.

    Args:
        server_url: of a role, who may log in to the pooler with the same password.
        prepare: puts more files into its folder, and returns more lines of its configuration, or others.

    Raises:
        NoServerError: it does not start.
    """
    assert PROGRAM is not None, MISSING
    server = make_url(server_url)
    with tempfile.TemporaryDirectory(prefix="lapse-pgbouncer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        (folder / "users.txt").write_text(f'"{server.username}" "{server.password or ""}"\n')
        (folder / "pgbouncer.ini").write_text(_configuration(server, folder, port, prepare(folder)))
        for path in folder.iterdir():
            path.chmod(0o600)
        give_to_server_user(folder)
        with (
            (folder / "output").open("wb") as output,
            subprocess.Popen(
                [PROGRAM, str(folder / "pgbouncer.ini")],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **server_user(),
            ) as process,
        ):
            try:
                _wait_for(port, process, folder / "output")
                yield _through(server, port).render_as_string(hide_password=False)
            finally:
                process.terminate()


def through_pooler(pooler_url: str, database_url: str) -> str:
    """Return the URL of a database as it is seen through the pooler."""
    pooler = make_url(pooler_url)
    return _through(make_url(database_url), pooler.port or 0).render_as_string(hide_password=False)


def _through(url: URL, port: int) -> URL:
    return url.set(host="127.0.0.1", port=port)


def _configuration(server: URL, folder: Path, port: int, settings: dict[str, str]) -> str:
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "pool_mode": "transaction",
        "default_pool_size": str(POOL_SIZE),
        "max_client_conn": "500",
        "auth_type": "scram-sha-256" if server.password else "trust",
        "auth_file": str(folder / "users.txt"),
        "admin_users": server.username or "",
        **settings,
    }
    databases = f"[databases]\n* = host={server.host or '127.0.0.1'} port={server.port or 5432}\n"
    return databases + "[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items())


def _wait_for(port: int, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise NoServerError(f"PgBouncer does not start: {output.read_text(errors='replace')}")
        time.sleep(0.02)
