"""What goes wrong at a prompt: URLs mistyped as people do, and an output that cannot be written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.commands import LAPSE, environment, error_line, run_lapse

SECRETS = ("s3cret", "hunter2")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@s3cret@127.0.0.1:1/chat",  # a password with an @ that should be %40
        "postgresql://me:hunter2@127.0.0.1:s3cret/chat",
        "postgresql://me:hunter2@[::1/chat",
        "postgresql://me:s3cret",
        "mysql://me:hunter2@127.0.0.1/chat",
        "sqlite://data/lapse.db",  # two slashes where three belong
        "sqlite://me:hunter2@/lapse.db",
        "sqlite:///lapse.db?password=hunter2",
    ],
)
def test_a_mistyped_url_is_wrong_use_in_one_line(url: str, tmp_path: Path) -> None:
    line = error_line(run_lapse("status", env={"DATABASE_URL": url}), 2)
    assert "use sqlite:///lapse.db" in line, "how it is spelled right"
    assert not any(secret in line for secret in SECRETS)
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_url_is_not_in_a_traceback_either() -> None:
    url = "postgresql://me:hunter2@s3cret@127.0.0.1:1/chat"
    result = run_lapse("status", env={"DATABASE_URL": url, "LOG_LEVEL": "DEBUG"})
    assert "Traceback" in result.stderr
    assert not any(secret in result.stdout + result.stderr for secret in SECRETS)


@pytest.mark.parametrize("arguments", [["--help"], ["migrate"]], ids=" ".join)
def test_an_output_that_is_full_is_no_internal_error(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [*LAPSE, *arguments],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert [line.startswith("lapse: ") for line in result.stderr.splitlines()] == [True]
    assert "internal error" not in result.stderr
