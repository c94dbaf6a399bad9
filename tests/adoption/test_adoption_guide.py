"""docs/adoption.md: every command runs, in its order, on a legacy table. The Portuguese guide has the same ones."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.adoption.legacy_table import Form, connect, create_legacy_table, fill
from tests.adoption.roles import SCRIPT, Roles, own_roles, psql
from tests.conftest import SERVERS, NewDatabase
from tests.support import documents
from tests.support.commands import environment, run_here
from tests.support.postgres_process import servers_found
from tests.support.require_program import missing

ENGLISH = "adoption.md"
DOCS = Path(__file__).parents[2] / "docs"
GUIDES = [ENGLISH, "adoption.pt-BR.md"]
FORM = Form(session_key=True, row_security=True, extra_statuses=("human_handoff",))
ROWS = 1_000
FAILING = "lapse doctor"
"""Ends with 1 on a table that is not adopted: the first time that a guide says it."""


def lines_of(guide: str) -> list[str]:
    """Return the commands of a guide's shell blocks, each on one line."""
    text = "\n".join(documents.blocks(DOCS / guide, "sh")).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


def without_comments(line: str) -> str:
    return re.sub(r"\s+#.*", "", line)


@pytest.fixture
def old_url(new_database: NewDatabase, pytestconfig: pytest.Config) -> str:
    """Return the URL of a fresh database on the first server: a guide is for people, and two dozen processes."""
    return new_database(next(iter(pytestconfig.stash[SERVERS].by_name)), migrated=False)


@pytest.fixture
def roles(old_url: str) -> Iterator[Roles]:
    with own_roles(old_url) as roles:
        roles.create("owner", "CREATEROLE CREATEDB")
        roles.run(f"GRANT CREATE ON SCHEMA public TO {roles.name('owner')}")
        with connect(roles.url("owner")) as connection:
            create_legacy_table(connection, FORM)
        with connect(roles.admin_url) as connection:
            fill(connection, ROWS, FORM)
        yield roles


@pytest.fixture
def programs(old_url: str, tmp_path: Path) -> Path:
    """Return a folder with what a guide calls: lapse, and PostgreSQL's programs, of the server's own version."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "lapse").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m lapse "$@"\n')
    (folder / "lapse").chmod(0o755)
    with connect(old_url) as connection:
        major = connection.info.server_version // 10_000
    beside = servers_found().get(major, Path(psql()).parent)
    for name in ("psql", "pg_dump", "pg_restore"):
        if not (beside / name).exists():
            missing(f"there is no {name} on this machine (Debian's package postgresql-client has it)")
        (folder / name).symlink_to(beside / name)
    return folder


def as_script(lines: list[str], roles: Roles) -> str:
    """Return the guide's commands for this test's database and roles, with the exit code of each."""
    copy = f"{make_url(roles.admin_url).database}_copy"
    urls = {
        "OWNER_URL": roles.url("owner"),
        "COPY_URL": make_url(roles.url("owner")).set(database=copy).render_as_string(hide_password=False),
        "WORKER_URL": roles.url("worker"),
    }
    script = []
    for number, line in enumerate(lines):
        if found := re.match(r"export (\w+_URL)=postgresql:", line):
            url = urls[found[1]].replace("postgresql+psycopg:", "postgresql:")
            command = f"export {found[1]}={shlex.quote(url)}"
        elif r"\password" in line:
            command = f"""psql {shlex.quote(roles.admin_url.replace("+psycopg", ""))} -q -c "ALTER ROLE """
            command += f"""{roles.name("worker")} PASSWORD '{roles.password}'" """
        else:
            command = line.replace("chat_copy", copy)
            names = " ".join(f"-v {role}={roles.name(role)}" for role in ("owner", "application", "worker"))
            command = command.replace("deploy/postgres/roles.sql", f"{shlex.quote(str(SCRIPT))} {names}")
        script.append(f'{command}\necho "[{number}] $?" >> codes')
    return "\n".join(script)


def test_the_commands_of_the_guide_run_one_after_the_other(roles: Roles, programs: Path, tmp_path: Path) -> None:
    lines = lines_of(ENGLISH)
    env = environment()
    result = subprocess.run(
        ["/bin/bash", "-c", as_script(lines, roles)],
        env={**env, "PATH": f"{programs}:{env['PATH']}"},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    codes = [int(line.split()[1]) for line in (tmp_path / "codes").read_text().splitlines()]
    first = lines.index(FAILING)
    assert codes == [1 if number == first else 0 for number in range(len(lines))], (lines, codes, result)
    check_what_is_left(roles, tmp_path)


def check_what_is_left(roles: Roles, folder: Path) -> None:
    """Check that the table is the application's again, and what the guide says of its files."""
    with connect(roles.admin_url) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(conv|lapse_|mess)'"
        )
        assert {name for (name,) in tables} == {"conversations", "messages"}
        count = connection.execute("SELECT count(*) FROM conversations").fetchone()
        assert count == (ROWS,)
    header = "owner_id,kept_conv_id,conv_id,status,started_at,updated_at\n"
    rehearsed, real = ((folder / name).read_text() for name in ("duplicates.csv", "duplicates-of-production.csv"))
    assert rehearsed == real
    assert real.startswith(header)
    assert "CREATE UNIQUE INDEX CONCURRENTLY" in (folder / "plan.sql").read_text()
    for name in ("history.csv", "history-of-production.csv"):
        assert ",duplicate_session,adopt," in (folder / name).read_text()


def test_the_queries_of_the_guide_run_on_an_adopted_table(roles: Roles) -> None:
    queries = documents.blocks(DOCS / ENGLISH, "sql")
    assert len(queries) >= 3
    assert run_here("adopt", "--database-url", roles.url("owner")).returncode == 0
    assert run_here("worker", "--once", "--database-url", roles.url("owner")).returncode == 0
    with connect(roles.url("owner")) as connection:
        shown = [connection.execute(query.encode()).fetchall() for query in queries]
    assert {row[1] for row in shown[0]} == {"adopt", "worker"}


def test_the_guides_have_the_same_parts_and_commands() -> None:
    english, portuguese = ((DOCS / guide).read_text(encoding="utf-8") for guide in GUIDES)
    for pattern in (r"^#+ ", r"^\| ", r"^- ", r"^```", r"\]\((?!adoption)"):
        one, other = (len(re.findall(pattern, text, re.MULTILINE)) for text in (english, portuguese))
        assert one == other, pattern
    commands = [[without_comments(line) for line in lines_of(guide)] for guide in GUIDES]
    assert commands[0] == commands[1]
    queries = [documents.blocks(DOCS / guide, "sql") for guide in GUIDES]
    assert queries[0] == queries[1]
