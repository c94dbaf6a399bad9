"""What goes wrong at a prompt: URLs mistyped in the ways people mistype them, and an output that is full."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.commands import LAPSE, environment, error_line, run_lapse

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
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_a_mistyped_url_is_wrong_use_in_one_line_and_never_shown(url: str, debug: bool, tmp_path: Path) -> None:
    result = run_lapse("status", env={"DATABASE_URL": url, **({"LOG_LEVEL": "DEBUG"} if debug else {})})
    assert not any(secret in result.stdout + result.stderr for secret in SECRETS)
    assert "URL" in result.stderr.splitlines()[-1]
    if debug:
        assert result.returncode == 2
    else:
        error_line(result, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["migrate"], ["worker", "--once"]], ids=" ".join)
def test_an_output_that_is_full_is_no_internal_error(arguments: list[str], tmp_path: Path) -> None:
    if arguments[0] == "worker":
        arguments = [*arguments, "--interval", "1"]
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [*LAPSE, *arguments],
            env=environment(),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
    assert "internal error" not in result.stderr
    assert "Traceback" not in result.stderr
