"""The public interface: its names are pinned here, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files

import pytest

import lapse

PUBLIC_NAMES = {
    "BackgroundWorker",
    "CallTimeoutError",
    "Conversation",
    "ConversationAlreadyOpenError",
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
    "NaiveDatetimeError",
    "NextDeadlines",
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
    assert set(lapse.__all__) == PUBLIC_NAMES
    assert lapse.__all__ == sorted(lapse.__all__)
    assert set(dir(lapse)) >= PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(lapse, name).__doc__


def test_a_name_that_is_not_there_is_the_usual_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Conversations'"):
        _ = lapse.Conversations


def test_the_package_is_typed_and_knows_its_version() -> None:
    assert files("lapse").joinpath("py.typed").is_file()
    assert lapse.__version__ == version("lapse")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, lapse; print(sorted({'sqlalchemy', 'pydantic', 'alembic', 'psycopg'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
