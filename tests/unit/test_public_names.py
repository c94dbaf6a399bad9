"""The public interface: its names are pinned here, and importing it is cheap."""

from __future__ import annotations

import py_compile
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import lapse
import lapse.public

PUBLIC_NAMES = {
    "AsyncConversationService",
    "BackgroundWorker",
    "CallTimeoutError",
    "Conversation",
    "ConversationAlreadyOpenError",
    "ConversationChangedError",
    "ConversationEvent",
    "ConversationExpiredError",
    "ConversationNotFoundError",
    "ConversationRepository",
    "ConversationService",
    "ConversationStatus",
    "Database",
    "DatabaseError",
    "DatabaseUnavailableError",
    "EventType",
    "ForeignTableError",
    "InvalidAddressError",
    "InvalidInputError",
    "InvalidTransitionError",
    "LapseError",
    "Message",
    "MessageResult",
    "NaiveDatetimeError",
    "NextDeadlines",
    "Outcome",
    "PurgeResult",
    "ReplayError",
    "SameAddressError",
    "SchemaError",
    "SchemaMissingError",
    "SchemaVersionError",
    "Sender",
    "Settings",
    "SettingsError",
    "SweepResult",
    "TaskMetrics",
    "load_settings",
    "migrate",
    "normalise_address",
    "session_key",
}


def test_the_public_names_are_these() -> None:
    names = lapse.__all__  # type: ignore[attr-defined]  # made at run time
    assert set(names) == PUBLIC_NAMES
    assert names == sorted(names)
    assert set(dir(lapse)) >= PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_a_public_name_says_what_it_is(name: str) -> None:
    assert getattr(lapse, name).__doc__


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_a_public_name_is_the_same_for_type_checkers(name: str) -> None:
    assert getattr(lapse, name) is getattr(lapse.public, name)


def test_a_name_that_is_not_there_is_the_usual_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Conversations'"):
        _ = lapse.Conversations  # type: ignore[attr-defined]  # mypy reports it, too


def test_a_star_import_brings_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from lapse import *", names)
    assert set(names) - {"__builtins__"} == PUBLIC_NAMES


def test_the_names_are_found_where_only_compiled_files_are_installed(tmp_path: Path) -> None:
    package = tmp_path / "lapse"
    package.mkdir()
    for name in ("__init__", "public", "errors"):
        source = Path(lapse.__path__[0], f"{name}.py")
        py_compile.compile(str(source), cfile=str(package / f"{name}.pyc"), doraise=True)
    code = "import lapse; print(lapse.__file__, lapse.SettingsError.__module__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.split() == [str(package / "__init__.pyc"), "lapse.errors"]


def test_the_package_is_typed() -> None:
    assert files("lapse").joinpath("py.typed").is_file()


def test_the_package_knows_its_version() -> None:
    assert lapse.__version__ == version("lapse")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, lapse; print(sorted({'sqlalchemy', 'pydantic', 'alembic', 'psycopg'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
