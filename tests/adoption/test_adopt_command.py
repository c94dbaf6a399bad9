"""`lapse adopt` as its users run it: the plan as SQL, the report, and stops."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from lapse.adoption.plan import INSTALL
from tests.adoption.adoption_helpers import (
    ENDED,
    LegacyConnection,
    adopt,
    adopt_until,
    error_codes,
    filled_table,
    values,
)
from tests.adoption.dumps import dump_program, schema_of
from tests.adoption.legacy_table import FORMS, Form, connect
from tests.adoption.roles import psql
from tests.conftest import SERVERS, NewDatabase
from tests.support.commands import LAPSE, environment, error_line, run_here
from tests.support.require_program import missing
from tests.support.waiting import until


@pytest.fixture
def filled(empty_postgres_url: str) -> Iterator[LegacyConnection]:
    """A connection to the legacy table, with some years in it."""
    with connect(empty_postgres_url) as connection:
        yield filled_table(connection)


def read(file: str) -> list[dict[str, str]]:
    """Return the lines of a CSV file."""
    with Path(file).open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


# --- the plan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS[2:], ids=str)
def test_the_plan_changes_nothing_and_is_sql_that_adopts(
    form: Form, new_database: NewDatabase, pytestconfig: pytest.Config
) -> None:
    server = next(iter(pytestconfig.stash[SERVERS].by_name))
    url, program = new_database(server, migrated=False), dump_program(int(server.removeprefix("postgresql-")))
    if program is None:
        missing(f"no pg_dump that reads {server}")
    with connect(url) as connection:
        filled_table(connection, form)
        schema, rows = schema_of(program, url), values(connection, "SELECT ctid, xmin, conv_id FROM conversations")
        planned = run_here("adopt", "--dry-run", "--database-url", url)
        assert planned.returncode == 0, planned
        assert planned.stderr == ""
        assert schema_of(program, url) == schema
        assert values(connection, "SELECT ctid, xmin, conv_id FROM conversations") == rows
        assert planned.stdout.count("--    lock: ") == planned.stdout.count("--    size: ") == 16
        planned_ends = int(re.findall(r"-- (\d+) open conversations end", planned.stdout)[0])
        assert planned_ends == ENDED - bool(form.extra_statuses)
        target = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        subprocess.run(
            [psql(), "-X", "-q", "-v", "ON_ERROR_STOP=1", target],
            env=environment(),
            input=planned.stdout,
            stdout=subprocess.DEVNULL,
            encoding="utf-8",
            check=True,
        )
        assert error_codes(url) == []
        assert values(connection, "SELECT count(*) FROM conversation_events") == [planned_ends]
        again = run_here("adopt", "--dry-run", "--database-url", url)
        assert again.stdout == "-- nothing to do: the table is adopted\n"


def test_it_prints_its_plan_and_says_what_it_does(filled: LegacyConnection, empty_postgres_url: str) -> None:
    planned = run_here("adopt", "--dry-run", "--database-url", empty_postgres_url).stdout
    done = run_here("adopt", "--database-url", empty_postgres_url)
    assert done.returncode == 0, done
    assert done.stdout.startswith(planned)
    assert done.stdout.removeprefix(planned).startswith("adopted in ")
    assert len(done.stderr.splitlines()) == 16
    assert "55119" not in done.stdout + done.stderr


def test_what_has_begun_goes_on_as_it_began(filled: LegacyConnection, empty_postgres_url: str) -> None:
    adopt_until(empty_postgres_url, INSTALL)
    line = error_line(run_here("adopt", "--keep", "oldest", "--database-url", empty_postgres_url), 2)
    assert "keeps the newest" in line
    assert values(filled, "SELECT count(*) FROM conversations WHERE session_key IS NOT NULL") == [0]
    assert run_here("adopt", "--keep", "newest", "--database-url", empty_postgres_url).returncode == 0


# --- the report ---------------------------------------------------------------------------------------------------


def test_the_report_says_the_same_before_and_after_and_again(filled: LegacyConnection, empty_postgres_url: str) -> None:
    for file, options in (("before.csv", ["--dry-run"]), ("after.csv", []), ("again.csv", [])):
        ended = run_here("adopt", *options, "--report", file, "--database-url", empty_postgres_url)
        assert ended.returncode == 0, ended
    before = read("before.csv")
    assert read("after.csv") == read("again.csv") == before
    assert len(before) == ENDED
    assert set(before[0]) == {"owner_id", "kept_conv_id", "conv_id", "status", "started_at", "updated_at"}
    assert before[0]["status"] in ("pending", "progress")
    assert "55119" not in Path("before.csv").read_text(encoding="utf-8")
    kept = {line["conv_id"]: line["kept_conv_id"] for line in before}
    assert all(int(other) == int(conv_id) + 1 for conv_id, other in kept.items())


def test_the_report_of_a_run_that_goes_on_has_what_the_one_before_ended(
    filled: LegacyConnection, empty_postgres_url: str
) -> None:
    adopt_until(empty_postgres_url, "duplicates")
    assert run_here("adopt", "--report", "all.csv", "--database-url", empty_postgres_url).returncode == 0
    assert len(read("all.csv")) == ENDED


# --- stops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "waits_for"), [(signal.SIGINT, "a lock"), (signal.SIGTERM, "the transactions before an index")]
)
def test_a_stop_ends_it_at_once_and_another_run_goes_on(
    filled: LegacyConnection, empty_postgres_url: str, number: int, waits_for: str
) -> None:
    if waits_for != "a lock":
        adopt_until(empty_postgres_url, "validate")
    waiting = "SELECT pid FROM pg_stat_activity WHERE application_name = 'lapse adopt' AND datname = current_database()"
    if waits_for != "a lock":
        waiting += " AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
    with connect(empty_postgres_url) as holder:
        holder.execute("BEGIN; UPDATE conversations SET user_id = 1 WHERE conv_id = 1")
        with subprocess.Popen(
            [*LAPSE, "adopt", "--database-url", empty_postgres_url],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        ) as process:
            try:
                until(lambda: values(filled, waiting))
                process.send_signal(number)
                _, said = process.communicate(timeout=5)
            finally:
                process.kill()
        assert process.returncode == 130, said
        assert "the completed steps are kept, and the next run resumes from there" in said
        assert "Traceback" not in said
        # Neither the lock nor the build is left in the database.
        until(lambda: not values(filled, waiting), 5)
        holder.execute("COMMIT")
    adopt(empty_postgres_url)
    assert error_codes(empty_postgres_url) == []
