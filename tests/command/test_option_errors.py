"""An unusable value is named by where it was given: the option, or the variable of the environment or of `.env`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import error_line, run_here

WORKER = ("worker", "--once")
EXAMPLE = str(Path(__file__).parents[2] / "examples/customer_care.csv")
URL = "mysql://me:hunter2@127.0.0.1/chat"
CASES = [
    (WORKER, "--interval", "BACKGROUND_TASK_INTERVAL", "0"),
    (WORKER, "--min-wait", "BACKGROUND_TASK_MIN_WAIT", "-1"),
    (WORKER, "--batch-size", "BACKGROUND_TASK_BATCH_SIZE", "0"),
    (WORKER, "--max-rate", "BACKGROUND_TASK_MAX_RATE", "2000000"),
    (WORKER, "--backlog-limit", "BACKGROUND_TASK_BACKLOG_LIMIT", "-5"),
    (("worker",), "--http", "LAPSE_HTTP", "8080"),
    (("preview",), "--idle-minutes", "CONVERSATION_IDLE_TIMEOUT_MINUTES", "0"),
    (("preview",), "--expiration-minutes", "CONVERSATION_EXPIRATION_MINUTES", "0.001"),
    (("replay", EXAMPLE), "--idle-minutes", "CONVERSATION_IDLE_TIMEOUT_MINUTES", "-30"),
    (("replay", EXAMPLE), "--expiration-minutes", "CONVERSATION_EXPIRATION_MINUTES", "0"),
]
COMMANDS = (
    WORKER,
    ("status",),
    ("migrate",),
    ("doctor",),
    ("preview",),
    ("adopt",),
    ("unadopt",),
    ("purge", "--closed-before", "1"),
)


@pytest.mark.parametrize(("command", "option", "variable", "value"), CASES, ids=lambda value: str(value)[:40])
def test_an_unusable_value_is_named_by_where_it_was_given(
    command: tuple[str, ...], option: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = error_line(run_here(*command, option, value), 2)
    assert line.startswith(f"{option} {value} is not usable: ")
    assert variable not in line
    Path(".env").write_text(f"{variable}={value}\n", encoding="utf-8")
    assert error_line(run_here(*command), 2).startswith(f"{variable}='{value}' is not usable: ")
    Path(".env").unlink()
    monkeypatch.setenv(variable, value)
    line = error_line(run_here(*command), 2)
    assert line.startswith(f"{variable}='{value}' is not usable: ")
    assert option not in line


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unusable_url_is_named_by_where_it_was_given(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "the database URL is of the kind 'mysql'"
    assert error_line(run_here(*command, "--database-url", URL), 2).startswith(
        f"--database-url is not usable: {reason}"
    )
    Path(".env").write_text(f"DATABASE_URL={URL}\n", encoding="utf-8")
    assert error_line(run_here(*command), 2).startswith(f"DATABASE_URL is not usable: {reason}")
    monkeypatch.setenv("LAPSE_DATABASE_URL", URL)
    assert error_line(run_here(*command), 2).startswith(f"LAPSE_DATABASE_URL is not usable: {reason}")


def test_a_replay_names_the_option_of_its_url_and_reads_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    line = error_line(run_here("replay", EXAMPLE, "--database-url", URL), 2)
    assert line.startswith("--database-url is not usable: ")
    assert run_here("replay", EXAMPLE, "--json").returncode == 0


@pytest.mark.parametrize(("option", "value"), [("--batch-size", "0"), ("--batch-size", "1001"), ("--max-rate", "0")])
def test_a_purge_names_its_option(option: str, value: str) -> None:
    line = error_line(run_here("purge", "--closed-before", "1", option, value), 2)
    assert line.startswith(f"{option} {value} is not usable: ")


@pytest.mark.parametrize("command", [*COMMANDS, ("replay", EXAMPLE)], ids=" ".join)
def test_a_level_that_is_none_is_one_line_of_every_command(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    assert error_line(run_here(*command), 2).startswith("LOG_LEVEL='LOUD' is not usable: use DEBUG, INFO, ")


def test_a_probe_names_the_variable_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAPSE_HTTP", "8080")
    assert error_line(run_here("health"), 2).startswith("LAPSE_HTTP='8080' is not usable: ")
