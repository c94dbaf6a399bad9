"""The schema of a database as `pg_dump -s` writes it."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

from sqlalchemy import URL, make_url

from tests.support.commands import environment
from tests.support.postgres_process import servers_found

# Since August 2025 a dump is fenced by a word drawn for it.
_FENCE = re.compile(r"(?m)^\\(?:un)?restrict .*\n")


def dump_program(major: int) -> Path | None:
    """Return a `pg_dump` that can read a server of this version: the server's own, else a newer one."""
    for version, bin_folder in sorted(_bin_folders().items()):
        program = bin_folder / "pg_dump"
        if version >= major and program.exists():
            return program
    return None


@cache
def _bin_folders() -> dict[int, Path]:
    return servers_found()


def schema_of(program: Path, url: str) -> str:
    """Return the schema of a database, as SQL."""
    target = make_url(url)
    bare = URL.create("postgresql", target.username, None, target.host, target.port, target.database, target.query)
    dumped = subprocess.run(
        [program, "--schema-only", f"--dbname={bare.render_as_string()}"],
        env=environment({"PGPASSWORD": target.password or ""}),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return _FENCE.sub("", dumped.stdout)
