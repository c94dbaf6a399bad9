"""The units of deploy/systemd: systemd takes them, they are closed, and what they forbid the worker does not need."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lapse.settings import Settings, load_settings
from lapse.store import Database
from tests.support import system_calls
from tests.support.commands import LAPSE, RunningLapse, environment, run_lapse, run_program
from tests.support.require_program import missing

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
UNITS = ["lapse-worker.service", "lapse-migrate.service"]
PROGRAM = "/opt/lapse/bin/lapse"
SHARED = "# --- From here on the same in both units ---"
HIGHEST_EXPOSURE = 1.5

ANALYZE = shutil.which("systemd-analyze")
UNDER_FILTER = (sys.executable, system_calls.__file__)


def analyze(*arguments: str | Path) -> str:
    """Run systemd-analyze and return what it says; it must be content."""
    if ANALYZE is None:
        missing("there is no systemd-analyze on this machine (the package `systemd` has it)")
    result = run_program(str(ANALYZE), *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def directives(unit: str) -> dict[str, list[str]]:
    """Return the values of each directive, in their order; no name is in two sections of these units."""
    found: dict[str, list[str]] = {}
    for line in text_of(unit).splitlines():
        if line and line[0] not in "#[":
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


# --- what systemd says of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "installed", "verified"),
    [
        (UNITS[0], UNITS[0], UNITS[0]),
        (UNITS[1], UNITS[1], UNITS[1]),
        (UNITS[0], "lapse-worker@.service", "lapse-worker@2.service"),
    ],
)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: str, installed: str, verified: str, tmp_path: Path) -> None:
    # The program must exist for it: this environment's own takes its place, all else stays byte for byte.
    here = Path(sys.executable).with_name("lapse")
    assert text_of(unit).count(PROGRAM) == 1
    (tmp_path / installed).write_text(text_of(unit).replace(PROGRAM, str(here)), encoding="utf-8")
    assert analyze("verify", "--man=no", "--recursive-errors=yes", tmp_path / verified) == ""


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_closed_but_for_what_it_needs(unit: str) -> None:
    # systemd counts in tenths.
    report = analyze("security", "--offline=true", f"--threshold={HIGHEST_EXPOSURE * 10:.0f}", FOLDER / unit)
    (exposure,) = re.findall(r"Overall exposure level for \S+: (\S+)", report)
    assert float(exposure) <= HIGHEST_EXPOSURE


# --- what the worker needs --------------------------------------------------------------------------------------------


def test_the_worker_is_watched_stopped_and_started_anew_as_it_should_be() -> None:
    unit = directives("lapse-worker.service")
    wanted = {
        "Type": "notify",
        "NotifyAccess": "main",
        "TimeoutStartSec": "infinity",
        "KillSignal": "SIGTERM",
        "TimeoutStopSec": "30",
        "Restart": "always",
        "RestartPreventExitStatus": "2",
        "StartLimitIntervalSec": "0",
        "MemoryMax": "512M",
    }
    assert {name: unit.get(name) for name in wanted} == {name: [value] for name, value in wanted.items()}
    assert int(unit["WatchdogSec"][0]) > 0


@pytest.mark.parametrize("unit", UNITS)
def test_the_command_of_a_unit_is_understood(unit: str) -> None:
    (line,) = directives(unit)["ExecStart"]
    program, *arguments = shlex.split(line)
    assert program == PROGRAM
    # Click looks at all options before it helps: an unknown one is an error.
    result = run_lapse(*arguments, "--help")
    assert result.returncode == 0, result.stderr


def test_both_units_are_closed_alike() -> None:
    worker, migrate = (text_of(unit).split(SHARED)[1].split("[Install]")[0].rstrip() for unit in UNITS)
    assert worker == migrate
    assert "SystemCallFilter" in worker


def test_the_recipe_puts_program_and_settings_where_the_units_look() -> None:
    recipe = text_of("README.md")
    settings, own = directives("lapse-worker.service")["EnvironmentFile"]
    assert re.search(rf"install -m 0600 deploy/systemd/lapse.env.example {settings}$", recipe, re.MULTILINE)
    assert own.removeprefix("-").replace("%N", "lapse-worker@2") in recipe
    assert re.search(rf"ln -sfn \S+ {Path(PROGRAM).parents[1]}$", recipe, re.MULTILINE)


# --- the example of the settings --------------------------------------------------------------------------------------


def example_settings() -> list[tuple[str, str]]:
    return re.findall(r"^#?([A-Z_]+)=(.*)$", text_of("lapse.env.example"), re.MULTILINE)


def test_the_example_has_exactly_the_settings_there_are() -> None:
    assert {name for name, _ in example_settings()} == {field.alias for field in Settings.model_fields.values()}


@pytest.mark.parametrize(("name", "value"), example_settings())
def test_a_value_of_the_example_is_usable(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    Database(load_settings().database_url).close()


def test_what_the_example_shows_is_the_default_where_there_is_one() -> None:
    defaults = {field.alias: field.default for field in Settings.model_fields.values() if field.default is not None}
    shown = dict(example_settings())  # of several, the last
    assert {name: shown[str(name)] for name in defaults} == {
        name: str(default).lower() if isinstance(default, bool) else str(default) for name, default in defaults.items()
    }


# --- the system call filter, for real ---------------------------------------------------------------------------------


def calls_of(group: str) -> set[str]:
    """Return the system calls of a group, and of the groups in it."""
    lines = [line.strip() for line in analyze("syscall-filter", group).splitlines()[1:]]
    names = {line for line in lines if line and not line.startswith("#")}
    return {call for name in names for call in (calls_of(name) if name.startswith("@") else {name})}


def allowed_calls(values: list[str]) -> set[str]:
    """Return what SystemCallFilter= leaves; process 1 itself always adds @default."""
    calls: set[str] = set()
    for value in values:
        named = {call for word in value.removeprefix("~").split() for call in calls_of(word)}
        calls = calls - named if value.startswith("~") else calls | named
    return calls | calls_of("@default")


@pytest.fixture
def filter_file(tmp_path: Path) -> Path:
    """Return the filter of the worker's unit for `tests/support/system_calls.py`."""
    if system_calls.LIBRARY is None:
        missing(system_calls.MISSING)
    unit = directives("lapse-worker.service")
    assert unit["MemoryDenyWriteExecute"] == ["yes"]
    families = [getattr(socket, name).value for name in unit["RestrictAddressFamilies"][0].split()]
    path = tmp_path / "filter.json"
    calls = allowed_calls(unit["SystemCallFilter"])
    if os.geteuid() == 0:  # SQLite gives new files to the owner of the database then; the unit's user is not root
        calls |= calls_of("@chown")
    path.write_text(json.dumps({"calls": sorted(calls), "families": families}), encoding="utf-8")
    return path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Return a socket that listens to what a service says, as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(20)
        yield listening


def test_the_worker_runs_under_the_filter_of_its_unit(
    database_url: str, filter_file: Path, manager: socket.socket, tmp_path: Path
) -> None:
    env = {
        "DATABASE_URL": database_url,
        "LAPSE_HTTP": "127.0.0.1:0",
        "NOTIFY_SOCKET": manager.getsockname(),
        "BACKGROUND_TASK_INTERVAL": "0.05",
        "BACKGROUND_TASK_MIN_WAIT": "0.05",
    }
    with (
        (tmp_path / "errors").open("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            [*UNDER_FILTER, str(filter_file), *LAPSE, "worker"],
            env=environment(env),
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        ) as process,
    ):
        worker = RunningLapse(process, errors)
        try:
            port = worker.wait_for("http server listening")["port"]
            worker.wait_for("metrics")  # after ten cycles
            assert b"READY=1" in manager.recv(4096)
            for path in ("readyz", "metrics"):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
                    assert answer.status == 200
            assert worker.stop(signal.SIGTERM) < int(directives("lapse-worker.service")["TimeoutStopSec"][0])
        finally:
            process.kill()
    assert process.returncode == 0, worker.log
    assert [line for line in worker.log if line["level"] != "info"] == []


def test_the_schema_is_made_under_the_filter(empty_database_url: str, filter_file: Path) -> None:
    result = run_program(*UNDER_FILTER, filter_file, *LAPSE, "migrate", env={"DATABASE_URL": empty_database_url})
    assert result.returncode == 0, result


@pytest.mark.parametrize(
    ("code", "ended", "said"),
    [
        ("import os; os.chroot('/')", -signal.SIGSYS, ""),
        ("import mmap; mmap.mmap(-1, 4096, prot=7)", 1, "Operation not permitted"),
        ("import socket; socket.socket(16, socket.SOCK_RAW)", 1, "Address family not supported"),
    ],
    ids=["a call of the privileged", "memory to write and execute", "netlink"],
)
def test_the_filter_forbids_what_the_unit_forbids(code: str, ended: int, said: str, filter_file: Path) -> None:
    result = run_program(*UNDER_FILTER, filter_file, sys.executable, "-c", code)
    assert (result.returncode, said in result.stderr) == (ended, True), result
