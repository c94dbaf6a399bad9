"""The conformance tests run on the cluster that LAPSE_TEST_CITUS_URL names: here a stand-in for one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from lapse import Database
from tests.conftest import SERVERS
from tests.support.citus_stand_in import install_stand_in
from tests.support.commands import environment
from tests.support.postgres import Server
from tests.support.sql import count, run_sql

ROOT = Path(__file__).parents[2]
SWEEPS = "tests/conformance/test_sweeps.py"


@pytest.fixture
def server(pytestconfig: pytest.Config) -> Server:
    """Return one of the running servers, for the inner run not to start its own."""
    return next(iter(pytestconfig.stash[SERVERS].by_name.values()))


@pytest.fixture
def cluster_url(server: Server, new_database: Callable[..., str]) -> str:
    """Return the URL of an empty database with the stand-in."""
    url = new_database(server.name, migrated=False)
    install_stand_in(url)
    return url


def run_pytest(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(env), capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def test_with_a_cluster_the_conformance_tests_run_there_too(server: Server, cluster_url: str) -> None:
    run = run_pytest(
        "-m", "citus", "-v", SWEEPS, LAPSE_TEST_POSTGRES_URL=server.admin_url, LAPSE_TEST_CITUS_URL=cluster_url
    )
    assert run.returncode == 0, run.stdout
    assert "; citus: tests/conformance\n" in run.stdout
    passed = [line for line in run.stdout.splitlines() if " PASSED" in line]
    assert len(passed) > 10
    assert all("[citus" in line for line in passed)
    with closing(Database(cluster_url)) as database:
        (placed,) = run_sql(database, "SELECT count(*) AS tables FROM pg_dist_partition WHERE partmethod = 'h'")
        assert placed.tables == 3
        assert count(database, "conversations") <= 10, "each test began without the rows of the one before"


def test_without_a_cluster_the_header_says_so(server: Server) -> None:
    run = run_pytest("--collect-only", SWEEPS, LAPSE_TEST_POSTGRES_URL=server.admin_url)
    assert run.returncode == 0, run.stdout
    assert "; citus: not run, set LAPSE_TEST_CITUS_URL\n" in run.stdout
    assert "[citus" not in run.stdout


def test_several_processes_leave_the_cluster_alone_and_say_so(server: Server, cluster_url: str) -> None:
    run = run_pytest(
        *("-n", "2", "-v", "-k", "idle_begins", SWEEPS),
        LAPSE_TEST_POSTGRES_URL=server.admin_url,
        LAPSE_TEST_CITUS_URL=cluster_url,
    )
    assert run.returncode == 0, run.stdout
    assert "; citus: not run by several processes, run `pytest -m citus`\n" in run.stdout
    assert "[citus" not in run.stdout


def test_a_database_that_may_not_be_emptied_is_refused(server: Server) -> None:
    run = run_pytest(SWEEPS, LAPSE_TEST_POSTGRES_URL=server.admin_url, LAPSE_TEST_CITUS_URL=server.url_of("postgres"))
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "must name a database whose name begins with lapse_test_" in run.stdout + run.stderr
    assert "postgres:" not in run.stdout + run.stderr, "the URL holds a password"
