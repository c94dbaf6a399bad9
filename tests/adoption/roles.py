"""The roles of deploy/postgres/roles.sql in a database of a test, under names of this test's own."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url

from tests.adoption.legacy_table import connect
from tests.support.commands import run_program
from tests.support.postgres_process import servers_found
from tests.support.require_program import missing

SCRIPT = Path(__file__).parents[2] / "deploy/postgres/roles.sql"


def psql() -> str:
    """Return the program; it comes with a server, or by itself."""
    beside = [folder / "psql" for folder in servers_found().values()]
    found = shutil.which("psql") or next((str(path) for path in beside if path.exists()), None)
    if found is None:
        missing("there is no psql on this machine (Debian's package postgresql-client has it)")
    return found


@dataclass(frozen=True)
class Roles:
    """The roles of one test. Roles belong to the whole server, where other tests have theirs."""

    admin_url: str
    prefix: str
    password: str

    def name(self, role: str) -> str:
        """Return the name of the `owner`, the `application`, the `worker`, …."""
        return f"{self.prefix}_{role}"

    def url(self, role: str) -> str:
        """Return the URL of this test's database for a role."""
        url = make_url(self.admin_url).set(username=self.name(role), password=self.password)
        return url.render_as_string(hide_password=False)

    def create(self, role: str, options: str = "") -> None:
        """Make a role beside the script."""
        self.run(f"CREATE ROLE {self.name(role)} LOGIN PASSWORD '{self.password}' {options}")

    def run(self, *statements: str) -> None:
        """Run statements as the superuser."""
        with connect(self.admin_url) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def apply(self, url: str | None = None, *, purger: bool = False) -> subprocess.CompletedProcess[str]:
        """Run the script with psql, as the superuser or as the role of this URL."""
        plain = make_url(url or self.admin_url).set(drivername="postgresql").render_as_string(hide_password=False)
        roles = ["owner", "application", "worker", *(["purger"] if purger else [])]
        variables = [word for role in roles for word in ("-v", f"{role}={self.name(role)}")]
        result = run_program(psql(), "-X", "-q", plain, "-f", SCRIPT, *variables)
        assert (result.returncode, result.stderr) == (0, ""), result
        made = [role for role in roles if self._exists(role)]
        self.run(*(f"ALTER ROLE {self.name(role)} PASSWORD '{self.password}'" for role in made))
        return result

    def _exists(self, role: str) -> bool:
        with connect(self.admin_url) as connection:
            return connection.execute("SELECT to_regrole(%s) IS NOT NULL", [self.name(role)]).fetchone() == (True,)


@contextmanager
def own_roles(url: str) -> Iterator[Roles]:
    """Hand out roles for a test, and drop those that it made, with all that they own in this database."""
    roles = Roles(url, f"lapse_test_{secrets.token_hex(4)}", secrets.token_hex(8))
    try:
        yield roles
    finally:
        with connect(url) as connection:
            # A session whose program was ended may still be at work, and be in the way.
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            made = connection.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [roles.prefix])
            for (name,) in made.fetchall():
                connection.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}".encode())
